//! The version by which people know a library.

use super::{elf::Elf, family::Family};

/// The version in the text that `OpenSSL_version(3)` returns, such as `3.0.19`
/// or `1.1.1w`, if the file has exactly one such text; of a relative the version
/// that it has itself, and not the one of OpenSSL that it says to be like.
///
/// It is a label for people: distributions change libraries without changing
/// it, so nothing is concluded from it.
#[must_use]
pub fn of(family: Option<Family>, libcrypto: &Elf) -> Option<String> {
    match family {
        Some(Family::AwsLc) => find_release(libcrypto.data(), b"AWS-LC "),
        Some(Family::LibreSsl) => find_release(libcrypto.data(), b"LibreSSL "),
        // It has none.
        Some(Family::BoringSsl) => None,
        Some(Family::OpenSsl) | None => find(libcrypto.data()),
    }
}

/// The one version, such as `1.69.0`, that stands behind a name and ends there.
fn find_release(data: &[u8], name: &[u8]) -> Option<String> {
    let mut found: Option<&str> = None;
    for at in memchr::memmem::find_iter(data, name) {
        let text = &data[at + name.len()..];
        let Some(end) = text.iter().take(24).position(|b| !b.is_ascii_digit() && *b != b'.') else {
            continue;
        };
        let Ok(version) = std::str::from_utf8(&text[..end]) else { continue };
        let parts: Vec<&str> = version.split('.').collect();
        if parts.len() != 3 || parts.iter().any(|p| p.is_empty()) || !b"\0)".contains(&text[end]) {
            continue;
        }
        if found.is_some_and(|other| other != version) {
            return None;
        }
        found = Some(version);
    }
    found.map(str::to_owned)
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
    use super::{find, find_release};

    #[test]
    fn the_version_is_the_dated_one() {
        let data = b"\0OpenSSL CMAC method\0OpenSSL 3.0.19 27 Jan 2026\0OpenSSL 3.0.19\0";
        assert_eq!(find(data).as_deref(), Some("3.0.19"));
        assert_eq!(find(b"OpenSSL 1.1.1w  11 Sep 2023\0").as_deref(), Some("1.1.1w"));
    }

    #[test]
    fn a_relative_has_a_version_of_its_own() {
        let data =
            b"No Config in AWS-LC.\0OpenSSL 1.1.1 (compatible; AWS-LC 1.69.0)\0AWS-LC 1.69.0\0";
        assert_eq!(find_release(data, b"AWS-LC ").as_deref(), Some("1.69.0"));
        assert_eq!(find(data), None);
        assert_eq!(find_release(b"LibreSSL 4.3.0\0", b"LibreSSL ").as_deref(), Some("4.3.0"));
        assert_eq!(find_release(b"AWS-LC 1.2.3\0AWS-LC 1.2.4\0", b"AWS-LC "), None);
    }

    #[test]
    fn two_versions_are_none() {
        assert_eq!(find(b"OpenSSL 3.0.1 1 Jan 2022\0OpenSSL 3.0.2 15 Mar 2022\0"), None);
    }
}
