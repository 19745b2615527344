//! Messages of the client, as a server reads them.

/// The typed messages of a client: tags and bodies.
pub fn client_messages(mut octets: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut found = Vec::new();
    while let Some((tag, rest)) = octets.split_first() {
        let (length, rest) = rest.split_at(4);
        let length = u32::from_be_bytes(length.try_into().expect("four octets")) as usize - 4;
        let (body, rest) = rest.split_at(length);
        found.push((*tag, body.to_vec()));
        octets = rest;
    }
    found
}

/// The parameters of a startup message.
pub fn startup_parameters(octets: &[u8]) -> Vec<(String, String)> {
    assert_eq!(octets[..4], u32::try_from(octets.len()).expect("short").to_be_bytes());
    assert_eq!(octets[4..8], [0, 3, 0, 0]);
    let texts: Vec<_> = octets[8..].split(|octet| *octet == 0).map(|text| String::from_utf8_lossy(text)).collect();
    texts
        .chunks_exact(2)
        .map(|pair| (pair[0].to_string(), pair[1].to_string()))
        .filter(|(key, _)| !key.is_empty())
        .collect()
}
