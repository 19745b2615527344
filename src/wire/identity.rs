//! Who somebody is: from what stands in a SIP header to the one form an account has.

use std::fmt::Write;

/// The longest header value and the longest identity that is read.
const VALUE_MAX: usize = 2048;
const IDENTITY_MAX: usize = 256;

/// Which of several identities counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preference {
    /// The first.
    #[default]
    First,
    /// The first SIP URI; if there is none, the first.
    Sip,
    /// The first telephone number: a tel URI, or a SIP URI with `user=phone` and a global number (RFC 3261, 19.1.6),
    /// which becomes that tel URI. If there is none, the first.
    Tel,
}

impl Preference {
    /// By its name in the configuration.
    pub fn named(name: &str) -> Option<Preference> {
        match name {
            "first" => Some(Preference::First),
            "sip" => Some(Preference::Sip),
            "tel" => Some(Preference::Tel),
            _ => None,
        }
    }
}

/// The identity that counts of all in these header values, in canonical form; see [`canonical`].
pub fn preferred(values: &[&[u8]], preference: Preference) -> Option<String> {
    let all = || values.iter().filter_map(|value| uris(value)).flatten();
    let found = match preference {
        Preference::First => None,
        Preference::Sip => all().filter_map(one).find(|identity| identity.starts_with("sip:")),
        Preference::Tel => all().find_map(telephone),
    };
    found.or_else(|| all().find_map(one))
}

/// The canonical identity of the first `sip:`, `sips:` or `tel:` URI of a header value: name-addr or addr-spec,
/// several of them separated by commas, or a bare URI.
///
/// `sip:user@host` with the host in lower case and without port, parameters, headers or password; `sips:` is the
/// same party as `sip:`. Escaped characters that need no escape are unescaped (RFC 3261, 19.1.4); a comma gets one,
/// because it ends a URI that stands without angle brackets (RFC 3261, 20). `tel:` keeps a
/// leading `+` and the digits, without visual separators and parameters. `None`: no such URI, or not a sane one.
pub fn canonical(value: &[u8]) -> Option<String> {
    preferred(&[value], Preference::First)
}

/// Whether the first SIP URI is that of an RCS store-and-forward server, which brings messages instead of being asked for
/// them: user part `rcse-standfw`.
pub fn is_store_and_forward(values: &[&[u8]]) -> bool {
    preferred(values, Preference::Sip).is_some_and(|identity| {
        let user = identity.strip_prefix("sip:").and_then(|rest| rest.split('@').next());
        user.is_some_and(|user| user.to_ascii_lowercase().starts_with("rcse-standfw"))
    })
}

/// The URIs of a header value.
fn uris(value: &[u8]) -> Option<impl Iterator<Item = &str>> {
    let text = std::str::from_utf8(value).ok().filter(|text| text.len() <= VALUE_MAX)?;
    Some(split_outside_quotes(text).map(|part| {
        let part = part.trim();
        match bracket(part) {
            Some(open) => part[open + 1..].split('>').next().unwrap_or_default(),
            None => part,
        }
    }))
}

/// Where `<` opens, outside a quoted display name.
fn bracket(part: &str) -> Option<usize> {
    outside_quotes(part).find(|(_, byte)| *byte == b'<').map(|(at, _)| at)
}

/// Octets of a text that stand in no quoted string, with their places.
fn outside_quotes(text: &str) -> impl Iterator<Item = (usize, u8)> {
    let (mut quoted, mut escaped) = (false, false);
    text.bytes().enumerate().filter(move |(_, byte)| {
        let literal = escaped;
        escaped = quoted && *byte == b'\\' && !literal;
        if *byte == b'"' && !literal {
            quoted = !quoted;
            return false;
        }
        !quoted
    })
}

/// Parts between commas that stand neither in quotes nor in angle brackets.
fn split_outside_quotes(text: &str) -> impl Iterator<Item = &str> {
    let mut inside = false;
    let mut cuts: Vec<usize> = outside_quotes(text)
        .filter_map(|(at, byte)| {
            inside = byte == b'<' || (inside && byte != b'>');
            (byte == b',' && !inside).then_some(at)
        })
        .collect();
    cuts.push(text.len());
    let mut from = 0;
    cuts.into_iter().map(move |to| {
        let part = text.get(from..to).unwrap_or_default();
        from = to + 1;
        part
    })
}

/// The canonical form of one URI.
fn one(uri: &str) -> Option<String> {
    let (scheme, rest) = uri.split_once(':')?;
    let identity = match scheme {
        _ if scheme.eq_ignore_ascii_case("sip") || scheme.eq_ignore_ascii_case("sips") => sip(rest)?,
        _ if scheme.eq_ignore_ascii_case("tel") => tel(rest)?,
        _ => return None,
    };
    (identity.len() <= IDENTITY_MAX).then_some(identity)
}

/// The telephone number of a tel URI, or of a SIP URI with `user=phone` and a number with `+`.
fn telephone(uri: &str) -> Option<String> {
    let (scheme, rest) = uri.split_once(':')?;
    if scheme.eq_ignore_ascii_case("tel") {
        return one(uri);
    }
    let (user, host) = rest.split_once('@')?;
    let mut parameters = host.split('?').next()?.split(';').skip(1);
    let is_phone = parameters.any(|parameter| parameter.trim().eq_ignore_ascii_case("user=phone"));
    let number = unescape(user.split([':', ';']).next()?)?;
    let identity = one(uri).and_then(|_| tel(&number)).filter(|_| is_phone)?;
    let digits = identity.strip_prefix("tel:+")?;
    digits.bytes().all(|digit| digit.is_ascii_digit()).then_some(identity)
}

fn sip(rest: &str) -> Option<String> {
    // Parameters of the user part stand before the @, those of the URI behind it.
    let (user, host) = match rest.split_once('@') {
        Some((user, host)) => (Some(user.split([':', ';']).next()?), host),
        None => (None, rest),
    };
    let host = host.split([';', '?', '>', ' ']).next()?;
    let host = match host.strip_prefix('[') {
        Some(v6) => format!("[{}]", v6.split(']').next().filter(|v6| host.contains(']') && !v6.is_empty())?),
        None => host.split(':').next()?.to_owned(),
    };
    let sane = |c: char| c.is_ascii_alphanumeric() || "-._[]:".contains(c);
    if host.is_empty() || !host.chars().all(sane) {
        return None;
    }
    let host = host.to_ascii_lowercase();
    match user {
        Some(user) => Some(format!("sip:{}@{host}", unescape(user)?)),
        None => Some(format!("sip:{host}")),
    }
}

/// Unescapes what needs no escape in a user part; writes the other escapes in upper case.
fn unescape(user: &str) -> Option<String> {
    let mut out = String::with_capacity(user.len());
    let user = user.replace(',', "%2C");
    let mut rest = user.as_str();
    while let Some((before, after)) = rest.split_once('%') {
        out.push_str(before);
        let octet = u8::from_str_radix(after.get(..2)?, 16).ok()?;
        match octet {
            _ if octet.is_ascii_alphanumeric() || b"-_.!~*'()&=+$?/".contains(&octet) => out.push(octet.into()),
            _ => write!(out, "%{octet:02X}").ok()?,
        }
        rest = after.get(2..)?;
    }
    out.push_str(rest);
    let sane = |c: char| c.is_ascii_graphic() && !"<>\"@".contains(c);
    (!out.is_empty() && out.chars().all(sane)).then_some(out)
}

fn tel(rest: &str) -> Option<String> {
    let number = rest.split([';', '?']).next()?.trim();
    let (plus, number) = match number.strip_prefix('+') {
        Some(number) => ("+", number),
        None => ("", number),
    };
    let digits: String = number.chars().filter(|c| !"-.() ".contains(*c)).collect();
    let sane = !digits.is_empty() && digits.chars().all(|c| c.is_ascii_hexdigit() || "*#".contains(c));
    sane.then(|| format!("tel:{plus}{digits}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_and_their_identities() {
        for (value, identity) in [
            ("sip:alice@example.org", Some("sip:alice@example.org")),
            ("<sip:alice@Example.ORG:5060;transport=tcp?x=y>;tag=1", Some("sip:alice@example.org")),
            ("\"A <b@c>, \\\"q\\\"\" <sip:alice@example.org>", Some("sip:alice@example.org")),
            ("Alice <SIPS:Alice@example.org>", Some("sip:Alice@example.org")),
            ("<sip:alice:secret@example.org>", Some("sip:alice@example.org")),
            ("<sip:%61lice%40x@example.org>", Some("sip:alice%40x@example.org")),
            ("<sip:+4930123;phone-context=x@example.org;user=phone>", Some("sip:+4930123@example.org")),
            ("<sip:alice@[2001:DB8::1]:5060>", Some("sip:alice@[2001:db8::1]")),
            ("sip:im.example.org", Some("sip:im.example.org")),
            ("<tel:+49-30-(12) 3.4;phone-context=x>", Some("tel:+49301234")),
            ("tel:110", Some("tel:110")),
            ("<urn:service:sos>, <tel:+491>", Some("tel:+491")),
            ("<sip:alice@example.org>, <tel:+491>", Some("sip:alice@example.org")),
            ("<urn:service:sos>", None),
            ("", None),
            ("alice", None),
            ("sip:", None),
            ("sip:@example.org", None),
            ("sip:alice@", None),
            ("sip:alice@[::1", None),
            ("sip:al%zzice@example.org", None),
            ("sip:alice@exa mple.org", Some("sip:alice@exa")),
            ("tel:abcxyz", None),
        ] {
            assert_eq!(canonical(value.as_bytes()).as_deref(), identity, "{value}");
        }
        assert_eq!(canonical(b"sip:\xff@example.org"), None);
        assert_eq!(canonical(format!("sip:{}@example.org", "a".repeat(300)).as_bytes()), None);
    }

    #[test]
    fn of_several_identities_the_preferred_one_counts() {
        let (sip, tel) = ("sip:alice@example.org", "tel:+49301234");
        for (values, first, preferred_sip, preferred_tel) in [
            (&["<sip:alice@example.org>, <tel:+49-30-1234>"][..], sip, sip, tel),
            (&["<tel:+49301234>", "<sip:alice@example.org>"], tel, sip, tel),
            (&["<sip:alice@example.org>", "<tel:+49301234>"], sip, sip, tel),
            (&["<urn:service:sos>", "<tel:+49301234>"], tel, tel, tel),
            (&["<sip:alice@example.org>"], sip, sip, sip),
            (&["", "<tel:+49301234>"], tel, tel, tel),
            (&["<sip:alice@example.org>, <sip:+49301234@example.org;user=phone>"], sip, sip, tel),
            (
                &["<sips:+49-30-1234;phone-context=x@Example.org:5061;transport=tcp;User=Phone?a=b>"],
                "sip:+49-30-1234@example.org",
                "sip:+49-30-1234@example.org",
                tel,
            ),
        ] {
            let values: Vec<&[u8]> = values.iter().map(|value| value.as_bytes()).collect();
            let found = [Preference::First, Preference::Sip, Preference::Tel].map(|which| preferred(&values, which));
            assert_eq!(found.each_ref().map(Option::as_deref), [first, preferred_sip, preferred_tel].map(Some));
        }
        // No number that is the same everywhere, or none said to be one.
        for uri in ["sip:110@example.org;user=phone", "sip:+49301234@example.org", "sip:+49ab@example.org;user=phone"] {
            let value = format!("<{uri}>");
            let found = preferred(&[value.as_bytes()], Preference::Tel);
            assert_eq!(found.as_deref(), uri.split(';').next(), "{uri}");
        }
        assert_eq!(preferred(&[], Preference::Tel), None);
    }

    #[test]
    fn a_canonical_identity_is_its_own() {
        for value in
            ["sip:alice%40x@example.org", "tel:+491", "sip:im.example.org", "sip:a@[::1]", "sip:a%2Cb@example.org"]
        {
            assert_eq!(canonical(value.as_bytes()).as_deref(), Some(value));
        }
    }

    #[test]
    fn the_store_and_forward_server_of_rcs() {
        let server = b"<sip:rcse-standfw@operator.example>";
        assert!(is_store_and_forward(&[server]) && is_store_and_forward(&[b"<tel:+491>", server]));
        assert!(!is_store_and_forward(&[b"<sip:alice@operator.example>"]));
        assert!(!is_store_and_forward(&[b""]));
    }

    proptest::proptest! {
        #[test]
        fn random_text_does_not_panic(text in ".{0,100}") {
            let _ = canonical(text.as_bytes());
            let _ = preferred(&[text.as_bytes(), text.as_bytes()], Preference::Tel);
        }

        #[test]
        fn uris_with_anything_in_them_are_stable(text in "(sip|tel):[a-z%@:;<>\\[\\]0-9+.,\" ]{0,40}") {
            if let Some(identity) = canonical(text.as_bytes()) {
                proptest::prop_assert_eq!(canonical(identity.as_bytes()), Some(identity));
            }
        }
    }
}
