//! Subscriber identities: parses SIP header values and returns the canonical form that account ids have.

use std::fmt::Write;

/// Maximum length of a header value in octets.
const VALUE_MAX: usize = 2048;

/// Maximum length of an identity in octets.
const IDENTITY_MAX: usize = 256;

/// Which of several identities is taken.
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
    /// Returns the preference with this name in the configuration.
    pub fn named(name: &str) -> Option<Preference> {
        match name {
            "first" => Some(Preference::First),
            "sip" => Some(Preference::Sip),
            "tel" => Some(Preference::Tel),
            _ => None,
        }
    }
}

/// Returns the preferred identity of these header values in canonical form; see [`canonical`].
pub fn preferred(values: &[&[u8]], preference: Preference) -> Option<String> {
    let all = || values.iter().filter_map(|value| uris(value)).flatten();
    let found = match preference {
        Preference::First => None,
        Preference::Sip => all().filter_map(one).find(|identity| identity.starts_with("sip:")),
        Preference::Tel => all().find_map(telephone),
    };
    found.or_else(|| all().find_map(one))
}

/// Returns the canonical identity of the first `sip:`, `sips:` or `tel:` URI of a header value: name-addr or addr-spec,
/// several of them separated by commas, or a bare URI. At most 256 octets.
///
/// A SIP URI becomes `sip:user@host`; `sips:` is the same party as `sip:`. The user part is case-sensitive and keeps
/// its own parameters (`sip:+49123;phone-context=x@host`); equivalent forms of RFC 3261, 19.1.4 become the same: octets
/// that need no escape are unescaped, escapes are in upper case. A comma is escaped, because it ends a URI without
/// angle brackets (RFC 3261, 20). With `user=phone` the user part is a telephone-subscriber (RFC 3261, 19.1.6) and is
/// written as in a tel URI. The host is in lower case, without a trailing dot; an IPv6 address as in RFC 5952.
/// Password, port, URI parameters and headers are dropped.
///
/// A tel URI becomes `tel:+digits` or `tel:digits`, without visual separators, followed by the parameters that identify
/// (RFC 3966, 4): `phone-context` of a local number, `ext` and `isub`. All others concern routing.
///
/// `None`: there is no such URI, or it is invalid.
pub fn canonical(value: &[u8]) -> Option<String> {
    preferred(&[value], Preference::First)
}

/// Returns the address of a From or P-Called-Party-ID value without header parameters: without angle brackets,
/// parameters belong to the header, not to the URI (RFC 3261, 20.10).
pub fn address(value: &[u8]) -> &[u8] {
    match std::str::from_utf8(value) {
        Ok(text) if bracket(text).is_none() => text.split(';').next().unwrap_or_default().as_bytes(),
        _ => value,
    }
}

/// User part by which an RCS store-and-forward server identifies itself when it delivers stored messages: the network
/// asserts `rcse-standfw@DOMAIN`, where DOMAIN is that of the server's operator (GSMA RCC.07).
const STORE_AND_FORWARD: &str = "rcse-standfw";

/// Whether the first SIP URI is the identity of a store-and-forward server, which sends the INVITE to deliver messages:
/// its canonical form must be `server` or, if that is `None`, `sip:rcse-standfw@` with any host. The user part must
/// match as a whole, including case (RFC 3261, 19.1.4).
pub fn is_store_and_forward(values: &[&[u8]], server: Option<&str>) -> bool {
    let Some(identity) = preferred(values, Preference::Sip) else { return false };
    match server {
        Some(server) => identity == server,
        None => {
            let address = identity.strip_prefix("sip:").and_then(|rest| rest.split_once('@'));
            address.is_some_and(|(user, _)| user == STORE_AND_FORWARD)
        }
    }
}

/// Iterates over the URIs of a header value.
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

/// Returns the offset of `<` outside a quoted display name.
fn bracket(part: &str) -> Option<usize> {
    outside_quotes(part).find(|(_, byte)| *byte == b'<').map(|(at, _)| at)
}

/// Iterates over the octets outside quoted strings, with their offsets.
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

/// Splits at commas outside quotes and angle brackets.
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

/// Returns the canonical form of one URI.
fn one(uri: &str) -> Option<String> {
    let (scheme, rest) = uri.split_once(':')?;
    let identity = match scheme {
        _ if scheme.eq_ignore_ascii_case("sip") || scheme.eq_ignore_ascii_case("sips") => sip(rest)?,
        _ if scheme.eq_ignore_ascii_case("tel") => tel(rest)?,
        _ => return None,
    };
    (identity.len() <= IDENTITY_MAX).then_some(identity)
}

/// Returns the telephone number of a tel URI, or of a SIP URI with `user=phone` and a global number.
fn telephone(uri: &str) -> Option<String> {
    let (scheme, rest) = uri.split_once(':')?;
    if scheme.eq_ignore_ascii_case("tel") {
        return one(uri);
    }
    let (user, host) = rest.split_once('@')?;
    let subscriber = is_phone(host).then(|| telephone_subscriber(user_of(user)?))??;
    (one(uri).is_some() && subscriber.starts_with('+')).then(|| format!("tel:{subscriber}"))
}

fn sip(rest: &str) -> Option<String> {
    // Parameters of the user part precede the @, those of the URI follow it.
    let (user, host) = match rest.split_once('@') {
        Some((user, host)) => (Some((user_of(user)?, is_phone(host))), host),
        None => (None, rest),
    };
    let host = host_of(host)?;
    let Some((user, is_phone)) = user else { return Some(format!("sip:{host}")) };
    // Some clients write user=phone without a number.
    let subscriber = is_phone.then(|| telephone_subscriber(user)).flatten();
    match subscriber {
        Some(subscriber) => Some(format!("sip:{subscriber}@{host}")),
        None => Some(format!("sip:{}@{host}", unescape(user)?)),
    }
}

/// Returns the user part without a password.
fn user_of(userinfo: &str) -> Option<&str> {
    userinfo.split(':').next()
}

/// Whether the URI parameters after this host contain `user=phone`.
fn is_phone(host: &str) -> bool {
    let parameters = host.split('?').next().unwrap_or_default().split(';').skip(1);
    parameters.into_iter().any(|parameter| parameter.trim().eq_ignore_ascii_case("user=phone"))
}

/// Returns the canonical form of a host without port and parameters.
fn host_of(hostport: &str) -> Option<String> {
    let host = hostport.split([';', '?', '>', ' ']).next()?;
    if let Some(v6) = host.strip_prefix('[') {
        let (address, port) = v6.split_once(']')?;
        let address =
            address.parse::<std::net::Ipv6Addr>().ok().filter(|_| port.is_empty() || port.starts_with(':'))?;
        return Some(format!("[{address}]"));
    }
    domain(host.split(':').next()?)
}

/// Returns a host name or IPv4 address in lower case without trailing dots.
fn domain(name: &str) -> Option<String> {
    let name = name.trim_end_matches('.');
    let sane = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
    sane.then(|| name.to_ascii_lowercase())
}

/// Unescapes octets of a user part that need no escape, and writes other escapes in upper case.
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
    let subscriber = telephone_subscriber(rest.split('?').next()?)?;
    Some(format!("tel:{subscriber}"))
}

/// Returns the canonical form of a telephone-subscriber (RFC 3966, 3): the number without visual separators, and the
/// identifying parameters in a fixed order. Hexadecimal digits of a local number are in lower case (RFC 3966, 4).
fn telephone_subscriber(text: &str) -> Option<String> {
    let mut parts = text.split(';');
    // Spaces are not visual separators, but occur.
    let mut out = digits(&unescape(&parts.next()?.replace(' ', ""))?)?;
    let (mut context, mut extension, mut subaddress) = (None, None, None);
    for parameter in parts {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        let place = match name.trim().to_ascii_lowercase().as_str() {
            "phone-context" => &mut context,
            "ext" => &mut extension,
            "isub" => &mut subaddress,
            _ => continue,
        };
        // A parameter must not appear twice (RFC 3966, 3).
        if place.replace(unescape(value.trim())?).is_some() {
            return None;
        }
    }
    // A global number needs no context, and must not have one (RFC 3966, 5.1.5).
    if let Some(context) = context.filter(|_| !out.starts_with('+')) {
        let context = if context.starts_with('+') { digits(&context)? } else { domain(&context)? };
        write!(out, ";phone-context={context}").ok()?;
    }
    if let Some(extension) = extension {
        write!(out, ";ext={}", digits(&extension).filter(|extension| !extension.starts_with('+'))?).ok()?;
    }
    if let Some(subaddress) = subaddress {
        let subaddress = Some(subaddress).filter(|subaddress| !subaddress.contains('?'))?;
        write!(out, ";isub={}", subaddress.to_ascii_lowercase()).ok()?;
    }
    Some(out)
}

/// Returns the digits of a number without visual separators, with a leading `+` if it is global.
fn digits(number: &str) -> Option<String> {
    let (plus, number) = match number.strip_prefix('+') {
        Some(number) => ("+", number),
        None => ("", number),
    };
    let digits: String = number.chars().filter(|c| !"-.()".contains(*c)).collect();
    let is_digit = |c: char| c.is_ascii_digit() || (plus.is_empty() && (c.is_ascii_hexdigit() || "*#".contains(c)));
    let sane = !digits.is_empty() && digits.chars().all(is_digit);
    sane.then(|| format!("{plus}{}", digits.to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_are_canonical() {
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
            ("<sip:+49-30.(123)@example.org;user=phone>", Some("sip:+4930123@example.org")),
            ("<sip:+49-30-123;npdi;Ext=4-5@example.org;User=Phone>", Some("sip:+4930123;ext=45@example.org")),
            (
                "<sip:1-10;phone-context=Example.ORG.@example.com;user=phone>",
                Some("sip:110;phone-context=example.org@example.com"),
            ),
            ("<sip:1-10;phone-context=X@example.com>", Some("sip:1-10;phone-context=X@example.com")),
            ("<sip:1-10@example.com>", Some("sip:1-10@example.com")),
            ("<sip:a-b.Z@example.org;user=phone>", Some("sip:a-b.Z@example.org")),
            ("<sip:Alice;P=Q@example.org;p=q>", Some("sip:Alice;P=Q@example.org")),
            ("<sip:a%6C%69ce%2d1@example.org>", Some("sip:alice-1@example.org")),
            ("<sip:alice%3b@example.org>", Some("sip:alice%3B@example.org")),
            ("<sip:alice@Example.org.:5060>", Some("sip:alice@example.org")),
            ("<sip:alice@[2001:DB8:0:0::1]>", Some("sip:alice@[2001:db8::1]")),
            ("sip:alice@.", None),
            ("sip:alice@[::1]x", None),
            ("sip:alice@[nowhere]", None),
            ("<tel:+49-30-(12) 3.4;phone-context=x>", Some("tel:+49301234")),
            ("<tel:+49301234;npdi;ext=5;rn=+491>", Some("tel:+49301234;ext=5")),
            ("tel:110", Some("tel:110")),
            ("tel:110;phone-context=Example.org", Some("tel:110;phone-context=example.org")),
            ("tel:1-10;cpc=ordinary;PHONE-CONTEXT=+4-9", Some("tel:110;phone-context=+49")),
            ("tel:AB*#;isub=Xy;phone-context=b", Some("tel:ab*#;phone-context=b;isub=xy")),
            ("tel:110;phone-context=a;phone-context=b", None),
            ("tel:110;phone-context=", None),
            ("tel:110;phone-context=+", None),
            ("tel:+49ab", None),
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
    fn preferred_identity_is_taken() {
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
                "sip:+49301234@example.org",
                "sip:+49301234@example.org",
                tel,
            ),
        ] {
            let values: Vec<&[u8]> = values.iter().map(|value| value.as_bytes()).collect();
            let found = [Preference::First, Preference::Sip, Preference::Tel].map(|which| preferred(&values, which));
            assert_eq!(found.each_ref().map(Option::as_deref), [first, preferred_sip, preferred_tel].map(Some));
        }
        // Not a global number, or not declared as a number.
        for uri in ["sip:110@example.org;user=phone", "sip:+49301234@example.org", "sip:+49ab@example.org;user=phone"] {
            let value = format!("<{uri}>");
            let found = preferred(&[value.as_bytes()], Preference::Tel);
            assert_eq!(found.as_deref(), uri.split(';').next(), "{uri}");
        }
        assert_eq!(preferred(&[], Preference::Tel), None);
    }

    #[test]
    fn canonical_identity_is_its_own_canonical_form() {
        for value in
            ["sip:alice%40x@example.org", "tel:+491", "sip:im.example.org", "sip:a@[::1]", "sip:a%2Cb@example.org"]
        {
            assert_eq!(canonical(value.as_bytes()).as_deref(), Some(value));
        }
    }

    #[test]
    fn store_and_forward_server_is_matched_as_a_whole() {
        let server = b"<sip:rcse-standfw@operator.example>";
        for values in
            [&[&server[..]][..], &[b"<tel:+491>", server], &[b"<sips:%72cse-standfw@Operator.example:5061;x>"]]
        {
            assert!(is_store_and_forward(values, None));
            assert!(is_store_and_forward(values, Some("sip:rcse-standfw@operator.example")));
            assert!(!is_store_and_forward(values, Some("sip:rcse-standfw@other.example")));
        }
        for other in [
            "",
            "<sip:alice@operator.example>",
            "<sip:rcse-standfw2@operator.example>",
            "<sip:rcse-standfw.alice@operator.example>",
            "<sip:a-rcse-standfw@operator.example>",
            "<sip:rcse-standfw;x=y@operator.example>",
            "<sip:RCSE-standfw@operator.example>",
            "<sip:rcse-standfw>",
            "\"rcse-standfw@operator.example\" <sip:alice@operator.example>",
            "<sip:alice@rcse-standfw>",
            "<sip:alice@operator.example>, <sip:rcse-standfw@operator.example>",
        ] {
            assert!(!is_store_and_forward(&[other.as_bytes()], None), "{other}");
        }
        assert!(is_store_and_forward(&[b"<sip:push@operator.example>"], Some("sip:push@operator.example")));
    }

    #[test]
    fn parameters_without_brackets_belong_to_the_header() {
        for (value, identity) in [
            ("sip:im.example.org;tag=a@b", "sip:im.example.org"),
            ("sip:alice@example.org;tag=1", "sip:alice@example.org"),
            ("tel:110;phone-context=x", "tel:110"),
            ("<tel:110;phone-context=x>;tag=1", "tel:110;phone-context=x"),
            ("\"a;b\" <sip:alice;x@example.org>;tag=1", "sip:alice;x@example.org"),
        ] {
            assert_eq!(canonical(address(value.as_bytes())).as_deref(), Some(identity), "{value}");
        }
    }

    const RANDOM_URI: &str =
        "<?(sip|tel):[a-fA-F%@:;<>\\[\\]0-9+.,\"=? -]{0,30}(;ext=[a-z0-9%]{0,3})?(@[a-zA-Z.]{1,5})?(;user=phone)?";

    proptest::proptest! {
        #[test]
        fn random_text_does_not_panic(text in ".{0,100}") {
            let _ = canonical(text.as_bytes());
            let _ = preferred(&[text.as_bytes(), text.as_bytes()], Preference::Tel);
        }

        #[test]
        fn random_uris_have_a_stable_canonical_form(
            text in RANDOM_URI,
        ) {
            if let Some(identity) = canonical(text.as_bytes()) {
                proptest::prop_assert!(identity.len() <= IDENTITY_MAX);
                proptest::prop_assert_eq!(canonical(identity.as_bytes()), Some(identity));
            }
        }

        #[test]
        fn separators_and_escapes_do_not_change_the_identity(
            number in "\\+?[0-9]{1,15}", at in 0..15usize, separator in "[-.()]", host in "[a-z]{1,8}\\.[a-z]{2}",
        ) {
            let (head, tail) = number.split_at(at.clamp(1, number.len()));
            let written = format!("{head}{separator}{tail}");
            let escaped: String = number.bytes().map(|octet| format!("%{octet:02x}")).collect();
            let plain = format!("sip:{number}@{host}");
            for uri in [
                format!("<sip:{written}@{host};user=phone>"),
                format!("<sip:{escaped}@{}.;user=phone>", host.to_uppercase()),
                format!("<sip:{escaped}@{host}>"),
            ] {
                proptest::prop_assert_eq!(canonical(uri.as_bytes()), Some(plain.clone()));
            }
            proptest::prop_assert_eq!(canonical(format!("<tel:{written}>").as_bytes()), Some(format!("tel:{number}")));
        }

        #[test]
        fn different_users_are_different_identities(one in "[a-zA-Z0-9;=_-]{1,12}", other in "[a-zA-Z0-9;=_-]{1,12}") {
            let canonical = |user: &str| canonical(format!("<sip:{user}@example.org>").as_bytes());
            proptest::prop_assert_eq!(canonical(&one) == canonical(&other), one == other);
        }
    }
}
