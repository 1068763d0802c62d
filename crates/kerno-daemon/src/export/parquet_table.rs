//! Writes rows as Apache Parquet, a group of rows at a time.

use std::io::Write;
use std::sync::Arc;

use parquet::basic::{Compression, LogicalType, Repetition, TimeUnit, Type as Physical};
use parquet::data_type::{ByteArray, ByteArrayType, DoubleType, Int64Type};
use parquet::errors::{ParquetError, Result};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::Type;

use super::tables::{Cell, Column, ColumnKind, Row};

/// Rows of a group, all of which are in memory until it is written.
const GROUP: usize = 20_000;

/// The values of a column, without those that are missing.
enum Values {
    Whole(Vec<i64>),
    Number(Vec<f64>),
    Text(Vec<ByteArray>),
}

/// A column of the group that is filled.
struct Filled {
    values: Values,
    /// For each row whether it has a value: 1 or 0.
    there: Vec<i16>,
}

pub(super) struct ParquetTable<W: Write + Send> {
    writer: SerializedFileWriter<W>,
    columns: Vec<Column>,
    filled: Vec<Filled>,
    rows: usize,
}

impl Filled {
    fn of(kind: ColumnKind) -> Self {
        let values = match kind {
            ColumnKind::Time | ColumnKind::Count => Values::Whole(Vec::new()),
            ColumnKind::Number => Values::Number(Vec::new()),
            ColumnKind::Text => Values::Text(Vec::new()),
        };
        Self { values, there: Vec::new() }
    }

    fn add(&mut self, cell: Cell) {
        let whole = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let is_there = match (&mut self.values, cell) {
            (Values::Whole(values), Cell::Time(ns)) => {
                values.push(whole(ns / 1000));
                true
            }
            (Values::Whole(values), Cell::Count(count)) => {
                values.push(whole(count));
                true
            }
            (Values::Number(values), Cell::Number(number)) => {
                values.push(number);
                true
            }
            (Values::Text(values), Cell::Text(text)) => {
                values.push(text.into_bytes().into());
                true
            }
            _ => false,
        };
        self.there.push(is_there.into());
    }
}

impl<W: Write + Send> ParquetTable<W> {
    pub(super) fn new(columns: Vec<Column>, out: W) -> Result<Self> {
        let fields = columns.iter().map(|column| field(column).map(Arc::new)).collect::<Result<Vec<_>>>()?;
        let schema = Type::group_type_builder("kerno").with_fields(fields).build()?;
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_created_by(concat!("kerno ", env!("CARGO_PKG_VERSION")).to_owned())
            .build();
        let writer = SerializedFileWriter::new(out, Arc::new(schema), Arc::new(properties))?;
        let filled = columns.iter().map(|column| Filled::of(column.kind)).collect();
        Ok(Self { writer, columns, filled, rows: 0 })
    }

    pub(super) fn add(&mut self, row: Row) -> Result<()> {
        for (filled, cell) in self.filled.iter_mut().zip(row) {
            filled.add(cell);
        }
        self.rows += 1;
        if self.rows == GROUP { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<()> {
        let mut group = self.writer.next_row_group()?;
        for (column, filled) in self.columns.iter().zip(&mut self.filled) {
            let Filled { values, there } = std::mem::replace(filled, Filled::of(column.kind));
            let mut writer = group.next_column()?.ok_or_else(|| ParquetError::General("a column too many".into()))?;
            match values {
                Values::Whole(values) => writer.typed::<Int64Type>().write_batch(&values, Some(&there), None)?,
                Values::Number(values) => writer.typed::<DoubleType>().write_batch(&values, Some(&there), None)?,
                Values::Text(values) => writer.typed::<ByteArrayType>().write_batch(&values, Some(&there), None)?,
            };
            writer.close()?;
        }
        group.close()?;
        self.rows = 0;
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<()> {
        if self.rows > 0 {
            self.write()?;
        }
        self.writer.close().map(drop)
    }
}

fn field(column: &Column) -> Result<Type> {
    let (physical, logical) = match column.kind {
        ColumnKind::Time => {
            let time = LogicalType::timestamp(true, TimeUnit::MICROS);
            (Physical::INT64, Some(time))
        }
        ColumnKind::Count => (Physical::INT64, None),
        ColumnKind::Number => (Physical::DOUBLE, None),
        ColumnKind::Text => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
    };
    let field = Type::primitive_type_builder(&column.name, physical).with_repetition(Repetition::OPTIONAL);
    field.with_logical_type(logical).build()
}
