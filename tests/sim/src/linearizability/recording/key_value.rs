//! A line of a key-value recording: a map in EDN with five known keys. See [`super`] for the form.

use bytes::Bytes;

use super::super::{KvInput, KvOutput};
use super::{End, Event, Kind, Line, LineError};

pub(super) const fn kind(input: &KvInput) -> Kind {
    match input {
        KvInput::Get { .. } => Kind::Read,
        KvInput::Put { .. } | KvInput::Delete { .. } => Kind::Write,
        KvInput::CompareAndSet { .. } => Kind::CompareAndSet,
        KvInput::Append { .. } => Kind::Append,
    }
}

pub(super) fn read(line: &str) -> Result<Line<KvInput, KvOutput>, LineError> {
    let mut fields = Fields(line.trim().strip_prefix('{').ok_or(LineError::Form)?);
    let process = fields.take(":process ")?.parse().map_err(|_| LineError::Form)?;
    let event = fields.take(":type ")?;
    let function = match fields.take(":f ")? {
        ":get" => Kind::Read,
        ":put" => Kind::Write,
        ":append" => Kind::Append,
        _ => return Err(LineError::Function),
    };
    let key = text(fields.take(":key ")?).ok_or(LineError::Form)?;
    let value = text(fields.take(":value ")?);
    if !fields.0.is_empty() {
        return Err(LineError::Form);
    }
    let event = match event {
        ":invoke" => Event::Made(match (function, value) {
            (Kind::Read, None) => KvInput::Get { key },
            (Kind::Write, Some(value)) => KvInput::Put { key, value },
            (Kind::Append, Some(value)) => KvInput::Append { key, value },
            _ => return Err(LineError::Function),
        }),
        ":ok" => Event::Ended(
            function,
            End::Returned(match (function, value) {
                (Kind::Read, Some(value)) => KvOutput::Found(Some(value)),
                (Kind::Read, None) => return Err(LineError::Function),
                _ => KvOutput::Done,
            }),
        ),
        ":fail" => Event::Ended(function, End::Void),
        ":info" => Event::Ended(function, End::Lost),
        _ => return Err(LineError::Event),
    };
    Ok(Line { process, event })
}

/// What is left of the map: `name value, name value}`.
struct Fields<'a>(&'a str);

impl<'a> Fields<'a> {
    /// The value of the next field, which has this name. A string keeps its quotation marks.
    fn take(&mut self, name: &str) -> Result<&'a str, LineError> {
        let rest = self.0.trim_start().strip_prefix(name).ok_or(LineError::Form)?;
        let end = match rest.strip_prefix('"') {
            Some(inner) => inner.find('"').ok_or(LineError::Form)? + 2,
            None => rest.find([',', '}']).ok_or(LineError::Form)?,
        };
        let (value, rest) = rest.split_at(end);
        self.0 = rest.strip_prefix([',', '}']).ok_or(LineError::Form)?;
        Ok(value)
    }
}

/// The inside of a string; `None` if it is none, as in `nil`.
fn text(value: &str) -> Option<Bytes> {
    let inner = value.strip_prefix('"')?.strip_suffix('"')?;
    Some(Bytes::copy_from_slice(inner.as_bytes()))
}
