//! Where the settings of an `SSL_CTX` are that explain its counters, learnt
//! from the library's own accessors.

use super::{
    code::value::{Base, Field, Value},
    elf::Elf,
    evidence::Evidence,
    family::{Accessors, Family},
    gap::{FieldGap, Gap},
    layout::{Layout, plausible},
    question::{Asked, ask},
};

/// The settings, in the order in which they are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    /// `session_cache_mode`: bits `SSL_SESS_CACHE_*`.
    CacheMode,
    /// `session_cache_size`: sessions that the internal cache may hold; 0: any number.
    CacheSize,
    /// `session_timeout`, in seconds.
    Timeout,
    /// `num_tickets`: tickets that a server sends after a full handshake in TLS 1.3.
    NumTickets,
    /// `options`: bits `SSL_OP_*`.
    Options,
    /// `min_proto_version`; 0: the lowest that there is.
    MinProtocol,
    /// `max_proto_version`; 0: the highest that there is.
    MaxProtocol,
    /// `new_session_cb`: called with each session to keep.
    NewCallback,
    /// `get_session_cb`: asked for sessions that the internal cache does not have.
    GetCallback,
    /// `remove_session_cb`: told of each session that is removed.
    RemoveCallback,
    /// `sid_ctx_length`: bytes of the session id context.
    SessionIdContextLength,
    /// `verify_mode`: bits `SSL_VERIFY_*`.
    VerifyMode,
}

/// All settings.
pub const SETTINGS: [Setting; 12] = [
    Setting::CacheMode,
    Setting::CacheSize,
    Setting::Timeout,
    Setting::NumTickets,
    Setting::Options,
    Setting::MinProtocol,
    Setting::MaxProtocol,
    Setting::NewCallback,
    Setting::GetCallback,
    Setting::RemoveCallback,
    Setting::SessionIdContextLength,
    Setting::VerifyMode,
];

/// `cmd` arguments of `SSL_CTX_ctrl` (`include/openssl/ssl.h`, 1.1.1 to 4.0).
const SSL_CTRL_GET_SESS_CACHE_SIZE: u64 = 43;
const SSL_CTRL_GET_SESS_CACHE_MODE: u64 = 45;
const SSL_CTRL_GET_MIN_PROTO_VERSION: u64 = 130;
const SSL_CTRL_GET_MAX_PROTO_VERSION: u64 = 131;

/// A length that a session id context can have (at most 32 bytes), and that is
/// copied in few instructions.
const SOME_LENGTH: u64 = 4;

/// Who says where a setting is.
enum Witness {
    /// `SSL_CTX_ctrl` with this command.
    Command(u64),
    /// A function that takes the `SSL_CTX` alone.
    Function(&'static str),
    /// `SSL_CTX_set_session_id_context`, which writes it.
    Writer,
}

impl Setting {
    /// Its name in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::CacheMode => "cache_mode",
            Self::CacheSize => "cache_size",
            Self::Timeout => "timeout",
            Self::NumTickets => "num_tickets",
            Self::Options => "options",
            Self::MinProtocol => "min_protocol",
            Self::MaxProtocol => "max_protocol",
            Self::NewCallback => "new_callback",
            Self::GetCallback => "get_callback",
            Self::RemoveCallback => "remove_callback",
            Self::SessionIdContextLength => "session_id_context_length",
            Self::VerifyMode => "verify_mode",
        }
    }

    fn witness(self) -> Witness {
        match self {
            Self::CacheMode => Witness::Command(SSL_CTRL_GET_SESS_CACHE_MODE),
            Self::CacheSize => Witness::Command(SSL_CTRL_GET_SESS_CACHE_SIZE),
            Self::Timeout => Witness::Function("SSL_CTX_get_timeout"),
            Self::NumTickets => Witness::Function("SSL_CTX_get_num_tickets"),
            Self::Options => Witness::Function("SSL_CTX_get_options"),
            Self::MinProtocol => Witness::Command(SSL_CTRL_GET_MIN_PROTO_VERSION),
            Self::MaxProtocol => Witness::Command(SSL_CTRL_GET_MAX_PROTO_VERSION),
            Self::NewCallback => Witness::Function("SSL_CTX_sess_get_new_cb"),
            Self::GetCallback => Witness::Function("SSL_CTX_sess_get_get_cb"),
            Self::RemoveCallback => Witness::Function("SSL_CTX_sess_get_remove_cb"),
            Self::SessionIdContextLength => Witness::Writer,
            Self::VerifyMode => Witness::Function("SSL_CTX_get_verify_mode"),
        }
    }

    /// How many bytes it can have: `int`s, `long`s and pointers, over all releases.
    fn widths(self) -> &'static [u8] {
        match self {
            Self::CacheMode | Self::MinProtocol | Self::MaxProtocol | Self::VerifyMode => &[4],
            // 32 bits in 1.1.1.
            Self::Options => &[4, 8],
            Self::CacheSize
            | Self::Timeout
            | Self::NumTickets
            | Self::NewCallback
            | Self::GetCallback
            | Self::RemoveCallback
            | Self::SessionIdContextLength => &[8],
        }
    }
}

/// Where a setting is, and what has to be done to its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Bytes from the `SSL_CTX`.
    pub offset: u32,
    /// Bytes: 4 or 8.
    pub width: u8,
    /// What the number is divided by, to be what the function returns: a
    /// timeout is kept in nanoseconds since 3.2, and told in seconds.
    pub divisor: u64,
}

/// Where the settings are in this build of the library.
///
/// `None`: not known; a [`FieldGap`] says why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SettingsLayout([Option<Place>; SETTINGS.len()]);

impl SettingsLayout {
    /// Where a setting is.
    #[must_use]
    pub fn place(&self, setting: Setting) -> Option<Place> {
        self.0[setting as usize]
    }

    /// The layout with a setting at a place.
    #[must_use]
    pub fn with(mut self, setting: Setting, place: Option<Place>) -> Self {
        self.0[setting as usize] = place;
        self
    }

    /// The bytes of an `SSL_CTX` in which all known settings are.
    #[must_use]
    pub fn span(&self) -> Option<std::ops::Range<u32>> {
        let places = || self.0.iter().flatten();
        let start = places().map(|place| place.offset).min()?;
        let end = places().map(|place| place.offset + u32::from(place.width)).max()?;
        Some(start..end)
    }
}

/// The layout of the settings, how it was learnt, and what could not be.
#[derive(Clone, Debug, Default)]
pub struct LearntSettings {
    /// The places.
    pub layout: SettingsLayout,
    /// One entry per known setting.
    pub evidence: Vec<Evidence>,
    /// One entry per unknown setting; the fields begin with `settings.`.
    pub gaps: Vec<FieldGap>,
}

/// Learns where the settings are. What the counters' layout has taken cannot
/// be a setting.
#[must_use]
pub fn learn(elf: &Elf, counters: &Layout, family: Family) -> LearntSettings {
    let mut learnt = LearntSettings::default();
    if family.accessors() != Accessors::Commands {
        let gap = FieldGap { field: "settings".to_owned(), reason: Gap::NotAsked { family } };
        learnt.gaps.push(gap);
        return learnt;
    }
    for setting in SETTINGS {
        match question(elf, setting) {
            Ok((place, evidence)) => {
                learnt.layout = learnt.layout.with(setting, Some(place));
                learnt.evidence.push(evidence);
            }
            Err(reason) => learnt.doubt(setting, reason),
        }
    }
    learnt.check(counters);
    learnt
}

impl LearntSettings {
    /// Takes a setting back.
    fn doubt(&mut self, setting: Setting, reason: Gap) {
        self.layout = self.layout.with(setting, None);
        self.evidence.retain(|evidence| evidence.field != setting.name());
        self.gaps.push(FieldGap { field: format!("settings.{}", setting.name()), reason });
    }

    /// The settings are members of one struct: no two of them, and no counter,
    /// share a byte. Accessors that say otherwise were misread.
    fn check(&mut self, counters: &Layout) {
        let mut taken: Vec<(String, std::ops::Range<u32>)> = Vec::new();
        if let Some(block) = counters.block() {
            taken.push(("the counters".to_owned(), block..block + 44));
        }
        let others = [("references", counters.references, 4), ("sessions", counters.sessions, 8)];
        for (name, offset, width) in others {
            taken.extend(offset.map(|offset| (name.to_owned(), offset..offset + width)));
        }
        let places = SETTINGS.into_iter().filter_map(|s| Some((s, self.layout.place(s)?)));
        let places: Vec<(Setting, std::ops::Range<u32>)> =
            places.map(|(s, p)| (s, p.offset..p.offset + u32::from(p.width))).collect();
        for (setting, bytes) in &places {
            let of_settings = places
                .iter()
                .filter(|(other, _)| other != setting)
                .map(|(other, bytes)| (other.name().to_owned(), bytes.clone()));
            let overlap = taken
                .iter()
                .cloned()
                .chain(of_settings)
                .find(|(_, other)| bytes.start < other.end && other.start < bytes.end);
            if let Some((other, at)) = overlap {
                let one = format!("{} at {:#x}", setting.name(), bytes.start);
                self.doubt(
                    *setting,
                    Gap::Contradiction { one, other: format!("{other} at {:#x}", at.start) },
                );
            }
        }
    }
}

fn question(elf: &Elf, setting: Setting) -> Result<(Place, Evidence), Gap> {
    let ctx = Value::argument(0);
    let asked = match setting.witness() {
        Witness::Command(command) => {
            let zero = Value::Constant(0);
            let arguments = [ctx, Value::Constant(command), zero.clone(), zero];
            ask(elf, "SSL_CTX_ctrl", &arguments, &[])?
        }
        Witness::Function(function) => ask(elf, function, &[ctx], &[])?,
        Witness::Writer => {
            let arguments = [ctx, Value::argument(1), Value::Constant(SOME_LENGTH)];
            let asked = ask(elf, "SSL_CTX_set_session_id_context", &arguments, &[])?;
            return written(setting, &asked);
        }
    };
    returned(setting, &asked)
}

/// The setting is what the function returns.
fn returned(setting: Setting, asked: &Asked<'_>) -> Result<(Place, Evidence), Gap> {
    let expected = "a number of the SSL_CTX";
    let Some(value) = asked.only_value() else { return Err(asked.unexpected(expected)) };
    let (field, divisor) = match value {
        // Only a timeout is kept in another unit than it is told in.
        Value::Quotient { field, division } if setting == Setting::Timeout => {
            let divisor = division.divisor().ok_or_else(|| asked.unexpected(expected))?;
            (&**field, divisor)
        }
        value => (value.as_field().ok_or_else(|| asked.unexpected(expected))?, 1),
    };
    let place = place(setting, field, divisor)
        .map_err(|gap| gap.unwrap_or_else(|| asked.unexpected(expected)))?;
    Ok((place, asked.evidence(setting.name(), value, asked.loaded_at(value))))
}

/// The setting is where the function writes the length that it is given.
fn written(setting: Setting, asked: &Asked<'_>) -> Result<(Place, Evidence), Gap> {
    let expected = "one that writes the length to one place of the SSL_CTX";
    let mut stores: Vec<(&Field, u64)> = asked
        .answers
        .iter()
        .flat_map(|answer| answer.stores.iter())
        .filter(|store| store.value == Value::Constant(SOME_LENGTH))
        .map(|store| (&store.field, store.at))
        .collect();
    stores.dedup_by_key(|(field, _)| *field);
    let [(field, at)] = stores.as_slice() else { return Err(asked.unexpected(expected)) };
    let place = place(setting, field, 1)
        .map_err(|gap| gap.unwrap_or_else(|| asked.unexpected(expected)))?;
    let answer = format!("writes {SOME_LENGTH} to {field}");
    Ok((place, asked.evidence(setting.name(), answer, Some(*at))))
}

/// `Err(None)`: the field is not one of the `SSL_CTX`, or not of a fitting width.
fn place(setting: Setting, field: &Field, divisor: u64) -> Result<Place, Option<Gap>> {
    if field.base != Base::Argument(0) || !setting.widths().contains(&field.width) {
        return Err(None);
    }
    let offset = plausible(setting.name(), field.offset, i64::from(field.width)).map_err(Some)?;
    Ok(Place { offset, width: field.width, divisor })
}

#[cfg(test)]
mod tests;
