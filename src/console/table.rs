//! What the console answers: tables, in the text or the binary format.

use std::{error::Error, sync::Arc, time::SystemTime};

use bytes::{BufMut as _, BytesMut};
use futures_util::stream;
use jiff::Timestamp;
use pgwire::{
    api::{
        Type,
        portal::Format,
        results::{DataRowEncoder, FieldFormat, FieldInfo, QueryResponse},
    },
    error::PgWireResult,
    types::{ToSqlText, format::FormatOptions},
};
use postgres_types::{IsNull, ToSql, to_sql_checked};

/// A column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Column {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
}

/// What the values of a column are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Number,
    Boolean,
    Time,
}

impl Kind {
    fn sql(self) -> Type {
        match self {
            Self::Text => Type::TEXT,
            Self::Number => Type::INT8,
            Self::Boolean => Type::BOOL,
            Self::Time => Type::TIMESTAMPTZ,
        }
    }

    /// Bytes of a value, or -1 where they differ (`pg_type.typlen`).
    fn len(self) -> i16 {
        match self {
            Self::Text => -1,
            Self::Number | Self::Time => 8,
            Self::Boolean => 1,
        }
    }
}

/// One value; what is not known is null.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Null,
    Text(Arc<str>),
    Number(i64),
    Boolean(bool),
    Time(SystemTime),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

impl From<Arc<str>> for Value {
    fn from(text: Arc<str>) -> Self {
        Self::Text(text)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Boolean(value)
    }
}

impl From<SystemTime> for Value {
    fn from(time: SystemTime) -> Self {
        Self::Time(time)
    }
}

macro_rules! numbers {
    ($($number:ty)*) => {$(
        impl From<$number> for Value {
            fn from(number: $number) -> Self {
                Self::Number(i64::try_from(number).unwrap_or(i64::MAX))
            }
        }
    )*};
}

numbers!(i32 u16 u32 u64 u128 usize i64);

impl<T: Into<Self>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// Columns and rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Table {
    /// Names and kinds.
    pub(super) columns: Vec<(String, Kind)>,
    pub(super) rows: Vec<Vec<Value>>,
}

impl Table {
    pub(super) fn new(columns: &[Column], rows: Vec<Vec<Value>>) -> Self {
        let named = columns
            .iter()
            .map(|column| (column.name.to_owned(), column.kind));
        Self {
            columns: named.collect(),
            rows,
        }
    }

    /// The answer with these rows, in the formats that are asked for.
    pub(super) fn response(self, tag: &str, format: &Format) -> QueryResponse {
        let fields = Arc::new(fields(&self.columns, format));
        let mut encoder = DataRowEncoder::new(Arc::clone(&fields));
        let rows = self.rows.into_iter().map(move |row| {
            for value in row {
                encode(&mut encoder, value)?;
            }
            Ok(encoder.take_row())
        });
        let mut response = QueryResponse::new(fields, stream::iter(rows));
        response.set_command_tag(tag);
        response
    }
}

/// What a client is told of the columns.
pub(super) fn fields(columns: &[(String, Kind)], format: &Format) -> Vec<FieldInfo> {
    let field = |(number, (name, kind)): (usize, &(String, Kind))| {
        let format = format.format_for(number);
        FieldInfo::new(name.clone(), None, None, kind.sql(), format).with_type_size(kind.len())
    };
    columns.iter().enumerate().map(field).collect()
}

/// A null is encoded as the text that is not there: it has no bytes of any type.
fn encode(encoder: &mut DataRowEncoder, value: Value) -> PgWireResult<()> {
    match value {
        Value::Null => encoder.encode_field_with_type_and_format(
            &None::<String>,
            &Type::TEXT,
            FieldFormat::Text,
            &FormatOptions::default(),
        ),
        Value::Text(text) => encoder.encode_field(&&*text),
        Value::Number(number) => encoder.encode_field(&number),
        Value::Boolean(value) => encoder.encode_field(&value),
        Value::Time(time) => encoder.encode_field(&Time(time)),
    }
}

/// A point in time, which PostgreSQL writes with the offset that goes with `TimeZone`: UTC here.
#[derive(Debug)]
struct Time(SystemTime);

impl ToSql for Time {
    fn to_sql(
        &self,
        ty: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        self.0.to_sql(ty, out)
    }

    fn accepts(ty: &Type) -> bool {
        <SystemTime as ToSql>::accepts(ty)
    }

    to_sql_checked!();
}

impl ToSqlText for Time {
    fn to_sql_text(
        &self,
        _: &Type,
        out: &mut BytesMut,
        _: &FormatOptions,
    ) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        let time = Timestamp::try_from(self.0)?;
        out.put_slice(
            time.strftime("%Y-%m-%d %H:%M:%S.%6f+00")
                .to_string()
                .as_bytes(),
        );
        Ok(IsNull::No)
    }
}
