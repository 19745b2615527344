//! Generates the bindings of the host, if the feature of a host is enabled, for the host that is on this machine.

#[cfg(all(feature = "kamailio", feature = "opensips"))]
compile_error!("a module is for one host, Kamailio or OpenSIPS: both look for the symbol `exports`");

#[cfg(any(feature = "kamailio", feature = "opensips"))]
#[path = "build/gates.rs"]
mod gates;

#[cfg(feature = "kamailio")]
#[path = "build/kamailio.rs"]
mod kamailio;

#[cfg(feature = "opensips")]
#[path = "build/opensips.rs"]
mod opensips;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    #[cfg(feature = "kamailio")]
    finish("Kamailio", kamailio::build());
    #[cfg(feature = "opensips")]
    finish("OpenSIPS", opensips::build());
}

/// Ends the build with the sentence of a failed check.
#[cfg(any(feature = "kamailio", feature = "opensips"))]
fn finish(host: &str, built: Result<(), String>) {
    if let Err(sentence) = built {
        eprintln!("\nimcharge cannot be built for this {host}: {sentence}\n");
        std::process::exit(1);
    }
}
