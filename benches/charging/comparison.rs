//! What comparisons of proxies share: the load, and setups with and without charging.

use imcharge_testkit::load::Load;
use imcharge_testkit::proxy::{Setup, kamailio};
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

/// A load, and setups of the proxies that it goes through.
pub struct Comparison {
    pub load: Load,
    /// Folder of the module.
    module: PathBuf,
    arguments: Vec<&'static str>,
    scratch: tempfile::TempDir,
}

impl Comparison {
    /// `module`: folder of the module. `arguments`: of every proxy's command line.
    pub fn new(module: &Path, arguments: &[&'static str]) -> Result<Comparison, Box<dyn Error>> {
        let scratch = tempfile::tempdir()?;
        fs::write(scratch.path().join("plain.cfg"), without_charging()?)?;
        Ok(Comparison { load: Load::new()?, module: module.to_owned(), arguments: arguments.to_vec(), scratch })
    }

    /// Folder for files, deleted with the comparison.
    pub fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    /// A proxy with this configuration.
    pub fn setup(&self, config: PathBuf) -> Setup {
        let mut setup = Setup::new(&self.module, self.load.server());
        (setup.config, setup.arguments) = (config, self.arguments.clone());
        setup
    }

    /// A proxy with the shipped configuration.
    pub fn charging(&self) -> Setup {
        self.setup(kamailio::config())
    }

    /// A proxy that only relays.
    pub fn relaying(&self) -> Setup {
        self.setup(self.scratch().join("plain.cfg"))
    }
}

/// Returns the shipped configuration without charging, as text: it only relays.
pub fn without_charging() -> Result<String, Box<dyn Error>> {
    let text = fs::read_to_string(kamailio::config())?;
    let (relay, _) = text.split_once("\nroute[CHARGED]").ok_or("kamailio.cfg has no route[CHARGED]")?;
    if !relay.contains(" imcharge_reserve(") {
        return Err("kamailio.cfg does not call imcharge_reserve()".into());
    }
    let lines = relay
        .lines()
        .map(|line| if line.contains(" imcharge_reserve(") { "    $du = IM_SERVER; t_relay(); exit;" } else { line })
        .filter(|line| !line.contains("\"imcharge"));
    Ok(lines.collect::<Vec<_>>().join("\n") + "\n")
}
