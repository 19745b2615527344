//! The password of the role, from its file.

use std::fmt;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Maximum length of the file in octets.
const FILE_MAX: u64 = 4096;

/// Permissions that no password file may give: any access by users that are neither the owner nor of the group.
const OTHERS: u32 = 0o007;

/// A password. It is not shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Vec<u8>);

impl fmt::Debug for Password {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Password(...)")
    }
}

impl Password {
    /// Reads the first line of the file. The error names the file and the problem.
    pub fn load(path: &Path) -> Result<Password, String> {
        let unreadable = |why: String| format!("password file {}: {why}", path.display());
        let file = File::open(path).map_err(|error| match error.kind() {
            ErrorKind::NotFound => unreadable("it does not exist".into()),
            ErrorKind::PermissionDenied => unreadable("permission denied; the user of the proxy must read it".into()),
            _ => unreadable(error.to_string()),
        })?;
        let status = file.metadata().map_err(|error| unreadable(error.to_string()))?;
        if !status.is_file() {
            return Err(unreadable("it is not a regular file".into()));
        }
        if status.mode() & OTHERS != 0 {
            let mode = status.mode() & 0o7777;
            return Err(unreadable(format!("every user of this machine has access (mode {mode:04o}): set it to 0640")));
        }
        let mut text = Vec::new();
        file.take(FILE_MAX + 1).read_to_end(&mut text).map_err(|error| unreadable(error.to_string()))?;
        if text.len() as u64 > FILE_MAX {
            return Err(unreadable(format!("it is longer than {FILE_MAX} octets")));
        }
        let line = text.split(|octet| *octet == b'\n').next().unwrap_or_default();
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        match line.is_empty() || line.contains(&0) {
            true => Err(unreadable("its first line is not a password".into())),
            false => Ok(Password(line.to_vec())),
        }
    }

    /// Returns its octets.
    pub fn octets(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    fn load(content: &[u8], mode: u32) -> Result<Password, String> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("password");
        fs::write(&path, content).expect("written");
        fs::set_permissions(&path, Permissions::from_mode(mode)).expect("set");
        Password::load(&path).map_err(|why| why.replace(&path.display().to_string(), "FILE"))
    }

    #[test]
    fn first_line_is_the_password() {
        for content in ["secret", "secret\n", "secret\r\n", "secret\nsecond line"] {
            assert_eq!(load(content.as_bytes(), 0o640).map(|found| found.octets().to_vec()), Ok(b"secret".to_vec()));
        }
        let password = load(b"secret", 0o600).expect("a password");
        assert!(!format!("{password:?}").contains("secret"));
    }

    #[test]
    fn unfit_files_are_refused() {
        assert_eq!(
            load(b"secret", 0o644),
            Err("password file FILE: every user of this machine has access (mode 0644): set it to 0640".into())
        );
        for content in [&b""[..], b"\n", b"a\0b\n"] {
            assert_eq!(load(content, 0o600), Err("password file FILE: its first line is not a password".into()));
        }
        assert_eq!(load(&[b'a'; 4097], 0o600), Err("password file FILE: it is longer than 4096 octets".into()));
        let missing = Password::load(Path::new("/nonexistent/password"));
        assert_eq!(missing, Err("password file /nonexistent/password: it does not exist".into()));
        let folder = Password::load(Path::new("/dev"));
        assert_eq!(folder, Err("password file /dev: it is not a regular file".into()));
    }
}
