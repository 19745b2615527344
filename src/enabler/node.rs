//! Name of this node: among the nodes that share a database, and in charging records.

/// Longest name, in octets. A file name, at most 255 octets long, has room for it.
const NAME_MAX: usize = 128;

/// Parses a name: letters, digits, dot, hyphen and underscore, beginning with a letter or digit.
pub fn parse(text: &str) -> Option<String> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    let begins = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    (begins && text.len() <= NAME_MAX && text.bytes().all(is_allowed)).then(|| text.to_owned())
}

/// Returns the name that a parameter sets; without one, the host name.
pub fn name(configured: Option<&str>) -> String {
    let host = || std::fs::read_to_string("/proc/sys/kernel/hostname").ok().and_then(|name| parse(name.trim()));
    configured.map(str::to_owned).or_else(host).unwrap_or_else(|| "imcharge".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_is_the_configured_one_or_that_of_the_host() {
        assert_eq!(name(Some("proxy1")), "proxy1");
        assert_eq!(parse(&name(None)), Some(name(None)));
        for wrong in ["", "-a", "a b", "a/b", &"a".repeat(NAME_MAX + 1)] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
