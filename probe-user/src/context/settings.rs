//! The settings of an `SSL_CTX` that explain its counters: from its bytes to
//! what its accessors would return.

use std::io;

use serde::{Deserialize, Serialize};

use crate::{
    host::ProcessMemory,
    image::settings::{Place, Setting, SettingsLayout},
};

/// Bits of `session_cache_mode` (`include/openssl/ssl.h`, 1.1.1 to 4.0).
pub mod cache_mode {
    /// Sessions of clients are kept.
    pub const CLIENT: u32 = 0x1;
    /// Sessions of servers are kept.
    pub const SERVER: u32 = 0x2;
    /// Expired sessions are not thrown out every 256 handshakes.
    pub const NO_AUTO_CLEAR: u32 = 0x80;
    /// The internal cache is not looked at.
    pub const NO_INTERNAL_LOOKUP: u32 = 0x100;
    /// Nothing is put into the internal cache.
    pub const NO_INTERNAL_STORE: u32 = 0x200;
    /// A session that is used gets a new time (3.1 and later).
    pub const UPDATE_TIME: u32 = 0x400;

    /// The bits, by what stands behind `SSL_SESS_CACHE_` in their names.
    pub const NAMES: [(u32, &str); 6] = [
        (CLIENT, "client"),
        (SERVER, "server"),
        (NO_AUTO_CLEAR, "no_auto_clear"),
        (NO_INTERNAL_LOOKUP, "no_internal_lookup"),
        (NO_INTERNAL_STORE, "no_internal_store"),
        (UPDATE_TIME, "update_time"),
    ];
}

/// Bits of `options` (`include/openssl/ssl.h`; the same from 1.1.1 to 4.0).
pub mod options {
    /// `SSL_OP_NO_TICKET`: no stateless tickets.
    pub const NO_TICKET: u64 = 1 << 14;
    /// `SSL_OP_NO_TLSv1`, `SSL_OP_NO_TLSv1_1` and `SSL_OP_NO_TLSv1_2`: no
    /// version before TLS 1.3 (SSL 3 is not built in by default).
    pub const NO_EARLIER: u64 = 1 << 26 | 1 << 28 | 1 << 27;
    /// `SSL_OP_NO_TLSv1_3`.
    pub const NO_TLS1_3: u64 = 1 << 29;
}

/// `SSL_VERIFY_PEER` of `verify_mode`.
const VERIFY_PEER: i64 = 1;

/// Protocol versions, as they stand on the wire and in the settings.
pub const TLS1_2: i64 = 0x303;
/// TLS 1.3.
pub const TLS1_3: i64 = 0x304;

/// The settings, as the accessor functions would return them. `None`: not
/// known, and a gap says why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// `SSL_CTX_get_session_cache_mode`: bits of [`cache_mode`].
    pub cache_mode: Option<u32>,
    /// `SSL_CTX_sess_get_cache_size`: sessions that the internal cache may
    /// hold; 0: any number.
    pub cache_size: Option<i64>,
    /// `SSL_CTX_get_timeout`: seconds after which a new session expires.
    pub timeout: Option<i64>,
    /// `SSL_CTX_get_num_tickets`: tickets that a server sends after a full
    /// handshake in TLS 1.3.
    pub num_tickets: Option<u64>,
    /// `SSL_CTX_get_options`: bits of [`options`], and others.
    pub options: Option<u64>,
    /// `SSL_CTX_get_min_proto_version`: 0x303 is TLS 1.2; 0: the lowest that there is.
    pub min_protocol: Option<i64>,
    /// `SSL_CTX_get_max_proto_version`; 0: the highest that there is.
    pub max_protocol: Option<i64>,
    /// Whether `SSL_CTX_sess_set_new_cb` has set a callback.
    pub new_callback: Option<bool>,
    /// Whether `SSL_CTX_sess_set_get_cb` has set a callback.
    pub get_callback: Option<bool>,
    /// Whether `SSL_CTX_sess_set_remove_cb` has set a callback.
    pub remove_callback: Option<bool>,
    /// Bytes of what `SSL_CTX_set_session_id_context` has set.
    pub session_id_context_length: Option<u64>,
    /// `SSL_CTX_get_verify_mode`: bits `SSL_VERIFY_*`.
    pub verify_mode: Option<i64>,
}

impl Settings {
    /// Reads the settings of a context from the memory of its process, at once.
    ///
    /// The caller has to make sure afterwards that the context did not end
    /// meanwhile: what was read may then be anything.
    ///
    /// # Errors
    ///
    /// If any of it cannot be read.
    pub fn read(
        memory: &dyn ProcessMemory,
        pid: u32,
        address: u64,
        layout: &SettingsLayout,
    ) -> io::Result<Self> {
        let Some(span) = layout.span() else { return Ok(Self::default()) };
        let mut bytes = vec![0; span.len()];
        memory.read(pid, address.wrapping_add(u64::from(span.start)), &mut bytes)?;
        Ok(Self::of_bytes(&bytes, span.start, layout))
    }

    /// The settings in the bytes of an `SSL_CTX` from `start` on.
    fn of_bytes(bytes: &[u8], start: u32, layout: &SettingsLayout) -> Self {
        let number = |setting: Setting| number(bytes, start, layout.place(setting)?);
        // An `int` has the same bits, however the accessor extends it.
        let int = |setting: Setting| number(setting).map(|n| i64::from(n as u32 as i32));
        let long = |setting: Setting| number(setting).map(|n| n as i64);
        let is_set = |setting: Setting| number(setting).map(|n| n != 0);
        Self {
            cache_mode: number(Setting::CacheMode).map(|n| n as u32),
            cache_size: long(Setting::CacheSize),
            timeout: long(Setting::Timeout),
            num_tickets: number(Setting::NumTickets),
            options: number(Setting::Options),
            min_protocol: int(Setting::MinProtocol),
            max_protocol: int(Setting::MaxProtocol),
            new_callback: is_set(Setting::NewCallback),
            get_callback: is_set(Setting::GetCallback),
            remove_callback: is_set(Setting::RemoveCallback),
            session_id_context_length: number(Setting::SessionIdContextLength),
            verify_mode: int(Setting::VerifyMode),
        }
    }

    /// Whether the cache's mode has all of these bits.
    #[must_use]
    pub fn cache_has(&self, bits: u32) -> Option<bool> {
        self.cache_mode.map(|mode| mode & bits == bits)
    }

    /// Whether `SSL_OP_NO_TICKET` is off.
    #[must_use]
    pub fn tickets(&self) -> Option<bool> {
        self.options.map(|options| options & options::NO_TICKET == 0)
    }

    /// Whether a peer's certificate is asked for.
    #[must_use]
    pub fn verifies_peer(&self) -> Option<bool> {
        self.verify_mode.map(|mode| mode & VERIFY_PEER != 0)
    }

    /// Whether TLS 1.3 is among the versions that are allowed. A library that
    /// was built without it cannot do it even so.
    #[must_use]
    pub fn allows_tls1_3(&self) -> Option<bool> {
        let (max, options) = (self.max_protocol?, self.options?);
        Some((max == 0 || is_tls1_3(max)) && options & options::NO_TLS1_3 == 0)
    }

    /// Whether any version before TLS 1.3 is among those that are allowed.
    #[must_use]
    pub fn allows_earlier(&self) -> Option<bool> {
        let (min, options) = (self.min_protocol?, self.options?);
        Some(!is_tls1_3(min) && options & options::NO_EARLIER != options::NO_EARLIER)
    }
}

/// Versions of DTLS are larger numbers.
fn is_tls1_3(version: i64) -> bool {
    (TLS1_3..0x400).contains(&version)
}

fn number(bytes: &[u8], start: u32, place: Place) -> Option<u64> {
    let from = place.offset.checked_sub(start)? as usize;
    let bytes = bytes.get(from..from + usize::from(place.width))?;
    let number = match place.width {
        4 => u64::from(u32::from_ne_bytes(bytes.try_into().ok()?)),
        8 => u64::from_ne_bytes(bytes.try_into().ok()?),
        _ => return None,
    };
    number.checked_div(place.divisor)
}

/// The names of a cache's mode, as a list.
#[must_use]
pub fn cache_mode_names(mode: u32) -> Vec<String> {
    if mode == 0 {
        return vec!["off".to_owned()];
    }
    let known = cache_mode::NAMES.iter().fold(0, |all, (bit, _)| all | bit);
    let mut names: Vec<String> = cache_mode::NAMES
        .iter()
        .filter(|(bit, _)| mode & bit != 0)
        .map(|(_, name)| (*name).to_owned())
        .collect();
    if mode & !known != 0 {
        names.push(format!("{:#x}", mode & !known));
    }
    names
}

/// A protocol version by its usual name; `any` is what 0 stands for.
#[must_use]
pub fn protocol_name(version: i64, any: &str) -> String {
    match version {
        0 => any.to_owned(),
        0x300 => "SSLv3".to_owned(),
        0x301 => "TLSv1".to_owned(),
        0x302 => "TLSv1.1".to_owned(),
        TLS1_2 => "TLSv1.2".to_owned(),
        TLS1_3 => "TLSv1.3".to_owned(),
        0xfeff => "DTLSv1".to_owned(),
        0xfefd => "DTLSv1.2".to_owned(),
        0x100 => "DTLS1_BAD_VER".to_owned(),
        other => format!("{other:#x}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(offset: u32, width: u8, divisor: u64) -> Option<Place> {
        Some(Place { offset, width, divisor })
    }

    /// Where 3.5 has them.
    fn layout() -> SettingsLayout {
        SettingsLayout::default()
            .with(Setting::CacheSize, place(0x38, 8, 1))
            .with(Setting::CacheMode, place(0x50, 4, 1))
            .with(Setting::Timeout, place(0x58, 8, 1_000_000_000))
            .with(Setting::NewCallback, place(0x60, 8, 1))
            .with(Setting::GetCallback, place(0x70, 8, 1))
            .with(Setting::MinProtocol, place(0x140, 4, 1))
    }

    #[test]
    fn settings_are_what_the_functions_return() {
        let layout = layout();
        let span = layout.span().expect("something is known");
        assert_eq!(span, 0x38..0x144);
        let mut bytes = vec![0; span.len()];
        let mut put = |offset: usize, number: &[u8]| {
            bytes[offset - 0x38..offset - 0x38 + number.len()].copy_from_slice(number);
        };
        put(0x38, &20_480_u64.to_ne_bytes());
        put(0x50, &0x302_u32.to_ne_bytes());
        put(0x58, &7_200_999_999_999_u64.to_ne_bytes());
        put(0x70, &0x5555_0000_u64.to_ne_bytes());
        put(0x140, &0x303_u32.to_ne_bytes());
        let settings = Settings::of_bytes(&bytes, span.start, &layout);
        let expected = Settings {
            cache_mode: Some(0x302),
            cache_size: Some(20_480),
            timeout: Some(7200),
            new_callback: Some(false),
            get_callback: Some(true),
            min_protocol: Some(0x303),
            ..Settings::default()
        };
        assert_eq!(settings, expected);
    }

    #[test]
    fn a_place_outside_of_what_was_read_is_nothing() {
        let settings = Settings::of_bytes(&[0; 8], 0x38, &layout());
        assert_eq!(settings, Settings { cache_size: Some(0), ..Settings::default() });
    }

    #[test]
    fn nothing_known_is_nothing_read() {
        struct None;
        impl ProcessMemory for None {
            fn read(&self, _: u32, _: u64, _: &mut [u8]) -> io::Result<()> {
                Err(io::ErrorKind::PermissionDenied.into())
            }
        }
        let nothing = Settings::read(&None, 1, 0x1000, &SettingsLayout::default());
        assert_eq!(nothing.expect("nothing to read"), Settings::default());
        assert!(Settings::read(&None, 1, 0x1000, &layout()).is_err());
    }

    #[test]
    fn modes_have_names() {
        assert_eq!(cache_mode_names(0), ["off"]);
        assert_eq!(cache_mode_names(3), ["client", "server"]);
        assert_eq!(
            cache_mode_names(0x1302),
            ["server", "no_internal_lookup", "no_internal_store", "0x1000"]
        );
    }

    #[test]
    fn versions_that_are_allowed() {
        let settings = |min, max, options| Settings {
            min_protocol: Some(min),
            max_protocol: Some(max),
            options: Some(options),
            ..Settings::default()
        };
        let both = |s: Settings| (s.allows_earlier(), s.allows_tls1_3());
        assert_eq!(both(settings(0, 0, 0)), (Some(true), Some(true)));
        assert_eq!(both(settings(TLS1_2, TLS1_2, 0)), (Some(true), Some(false)));
        assert_eq!(both(settings(TLS1_3, 0, 0)), (Some(false), Some(true)));
        assert_eq!(both(settings(0, 0, options::NO_TLS1_3)), (Some(true), Some(false)));
        // DTLS 1.2 alone.
        assert_eq!(both(settings(0xfefd, 0xfefd, 0)), (Some(true), Some(false)));
        assert_eq!(both(Settings::default()), (None, None));
    }
}
