//! The version by which people know a library.

use super::elf::Elf;

/// The version in the text that `OpenSSL_version(3)` returns, such as `3.0.19`
/// or `1.1.1w`, if the file has exactly one such text.
///
/// It is a label for people: distributions change libraries without changing
/// it, so nothing is concluded from it.
#[must_use]
pub fn openssl_version(libcrypto: &Elf) -> Option<String> {
    find(libcrypto.data())
}

fn find(data: &[u8]) -> Option<String> {
    const PREFIX: &[u8] = b"OpenSSL ";
    let mut found: Option<&str> = None;
    for at in memchr::memmem::find_iter(data, PREFIX) {
        let text = &data[at + PREFIX.len()..];
        let Some(version) = version(text) else { continue };
        if found.is_some_and(|other| other != version) {
            return None;
        }
        found = Some(version);
    }
    found.map(str::to_owned)
}

/// A version at the start of a text, if a release date follows it.
fn version(text: &[u8]) -> Option<&str> {
    let end = text.iter().take(24).position(|b| *b == b' ')?;
    let version = std::str::from_utf8(&text[..end]).ok()?;
    let mut parts = version.split('.');
    let numbers =
        parts.by_ref().take(2).all(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()));
    let last = parts.next()?;
    let day = text.get(end + 1..end + 3)?;
    let dated = day.iter().all(|b| b.is_ascii_digit() || *b == b' ');
    (numbers && last.starts_with(|c: char| c.is_ascii_digit()) && parts.next().is_none() && dated)
        .then_some(version)
}

#[cfg(test)]
mod tests {
    use super::find;

    #[test]
    fn the_version_is_the_dated_one() {
        let data = b"\0OpenSSL CMAC method\0OpenSSL 3.0.19 27 Jan 2026\0OpenSSL 3.0.19\0";
        assert_eq!(find(data).as_deref(), Some("3.0.19"));
        assert_eq!(find(b"OpenSSL 1.1.1w  11 Sep 2023\0").as_deref(), Some("1.1.1w"));
    }

    #[test]
    fn two_versions_are_none() {
        assert_eq!(find(b"OpenSSL 3.0.1 1 Jan 2022\0OpenSSL 3.0.2 15 Mar 2022\0"), None);
    }
}
