//! JSON as columns: what is alike stands together, and takes little room once it is compressed.
//!
//! Windows are lists of like objects, histograms and series. As text, each number stands between names and brackets. Here, all values that
//! are at the same place of like objects are one column: the names once, then all process ids, all counts, and so on. Columns of numbers
//! are stored as differences where that is shorter, bounds of histograms as numbers of buckets. It is exact: what is unpacked is equal to
//! what was packed, names and all, so that any version can read it by name.
//!
//! A column is a byte for its class and what the class needs; of n values, n is known from where it stands.
//!
//! | class | then |
//! |---|---|
//! | null, false, true | |
//! | whole numbers | the way they are stored, then each |
//! | numbers with a point | the way they are stored, then each |
//! | text | the length of each, then all bytes |
//! | arrays of one length | that length, then a column for each place |
//! | arrays | the length of each, then one column of all elements |
//! | objects with the same names | the names, then a column for each |
//! | objects with other names | the number of names of each, the names, then one column of all values |
//! | several classes | the class that each value has, then a column for each class |

use serde_json::{Map, Number, Value};

/// How deep values may be in each other.
const MAX_DEPTH: u32 = 64;

/// The most values that are unpacked: a few bytes can claim very many.
const MAX_VALUES: usize = 16 << 20;

/// With so many values and more, objects in an object are one column, whatever they are called.
const MIN_MAP: usize = 2;

/// Longer arrays are not taken apart by place.
const MAX_PLACES: usize = 4;

/// 2^53: up to here, each whole number is a number with a point, too.
const MAX_WHOLE: f64 = 9_007_199_254_740_992.0;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Class {
    Null,
    False,
    True,
    Whole,
    Negative,
    Point,
    Text,
    Places,
    Arrays,
    Objects,
    Maps,
    Several,
}

impl Class {
    const ALL: [Self; 12] = [
        Self::Null,
        Self::False,
        Self::True,
        Self::Whole,
        Self::Negative,
        Self::Point,
        Self::Text,
        Self::Places,
        Self::Arrays,
        Self::Objects,
        Self::Maps,
        Self::Several,
    ];

    fn of_byte(byte: u8) -> Option<Self> {
        Self::ALL.get(usize::from(byte)).copied()
    }
}

/// How whole numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// As they are.
    Plain,
    /// Each as its difference to the one before.
    Differences,
    /// As bounds of a histogram's buckets, each as its difference to the one before.
    Buckets,
}

impl Way {
    const ALL: [Self; 3] = [Self::Plain, Self::Differences, Self::Buckets];

    fn of_byte(byte: u8) -> Option<Self> {
        Self::ALL.get(usize::from(byte)).copied()
    }
}

/// How numbers with a point are stored.
const WHOLE: u8 = 0;
const NANO: u8 = 1;
const BITS: u8 = 2;

/// Packs a value.
pub(crate) fn pack(value: &Value) -> Vec<u8> {
    let mut packer = Packer { out: Vec::with_capacity(16 << 10) };
    packer.column(&[value]);
    packer.out
}

/// Unpacks a value; `None` if these bytes are not what [`pack`] made.
pub(crate) fn unpack(bytes: &[u8]) -> Option<Value> {
    let mut unpacker = Unpacker { rest: bytes, values: 0 };
    let value = unpacker.column(1, 0)?.pop()?;
    unpacker.rest.is_empty().then_some(value)
}

struct Packer {
    out: Vec<u8>,
}

/// What decides which values stand together.
#[derive(PartialEq)]
enum Kind<'a> {
    Simple(Class),
    Object(&'a Map<String, Value>),
}

impl<'a> Kind<'a> {
    fn of(value: &'a Value) -> Self {
        Self::Simple(match value {
            Value::Null => Class::Null,
            Value::Bool(false) => Class::False,
            Value::Bool(true) => Class::True,
            Value::Number(number) if number.is_u64() => Class::Whole,
            Value::Number(number) if number.is_i64() => Class::Negative,
            Value::Number(_) => Class::Point,
            Value::String(_) => Class::Text,
            Value::Array(_) => Class::Arrays,
            Value::Object(object) if is_map(object) => Class::Maps,
            Value::Object(object) => return Self::Object(object),
        })
    }

    fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Simple(a), Self::Simple(b)) => a == b,
            (Self::Object(a), Self::Object(b)) => a.len() == b.len() && a.keys().eq(b.keys()),
            _ => false,
        }
    }
}

/// Whether an object is a list of like objects by name, such as processes by id.
fn is_map(object: &Map<String, Value>) -> bool {
    let mut values = object.values();
    let Some(Value::Object(first)) = values.next() else { return false };
    object.len() >= MIN_MAP
        && values.all(|value| {
            value.as_object().is_some_and(|other| other.len() == first.len() && other.keys().eq(first.keys()))
        })
}

impl Packer {
    fn column(&mut self, values: &[&Value]) {
        let mut kinds: Vec<Kind<'_>> = Vec::new();
        let mut of_each: Vec<u64> = Vec::with_capacity(values.len());
        for value in values {
            let kind = Kind::of(value);
            // Mostly the same as the one before.
            let known =
                of_each.last().filter(|last| kinds.get(**last as usize).is_some_and(|last| last.is_like(&kind)));
            let place =
                known.copied().or_else(|| kinds.iter().position(|known| known.is_like(&kind)).map(|at| at as u64));
            of_each.push(place.unwrap_or_else(|| {
                kinds.push(kind);
                kinds.len() as u64 - 1
            }));
        }
        match kinds.as_slice() {
            [] => self.class(Class::Null),
            [kind] => self.like(kind, values),
            several => {
                self.class(Class::Several);
                self.number(several.len() as u64);
                of_each.iter().for_each(|kind| self.number(*kind));
                for (at, kind) in several.iter().enumerate() {
                    let of_kind = of_each.iter().zip(values).filter(|(of, _)| **of == at as u64);
                    self.like(kind, &of_kind.map(|(_, value)| *value).collect::<Vec<_>>());
                }
            }
        }
    }

    fn like(&mut self, kind: &Kind<'_>, values: &[&Value]) {
        match kind {
            Kind::Simple(Class::Whole) => {
                self.class(Class::Whole);
                self.whole(&values.iter().filter_map(|value| value.as_u64()).collect::<Vec<_>>());
            }
            Kind::Simple(Class::Negative) => {
                self.class(Class::Negative);
                values.iter().filter_map(|value| value.as_i64()).for_each(|number| self.number(zigzag(number)));
            }
            Kind::Simple(Class::Point) => {
                self.class(Class::Point);
                self.points(&values.iter().filter_map(|value| value.as_f64()).collect::<Vec<_>>());
            }
            Kind::Simple(Class::Text) => {
                self.class(Class::Text);
                self.texts(values.iter().filter_map(|value| value.as_str()));
            }
            Kind::Simple(Class::Arrays) => {
                self.arrays(&values.iter().filter_map(|value| value.as_array()).collect::<Vec<_>>())
            }
            Kind::Simple(Class::Maps) => {
                self.class(Class::Maps);
                let objects = || values.iter().filter_map(|value| value.as_object());
                objects().for_each(|object| self.number(object.len() as u64));
                self.texts(objects().flat_map(Map::keys).map(String::as_str));
                self.column(&objects().flat_map(Map::values).collect::<Vec<_>>());
            }
            Kind::Simple(class) => self.class(*class),
            Kind::Object(like) => {
                self.class(Class::Objects);
                self.number(like.len() as u64);
                self.texts(like.keys().map(String::as_str));
                for name in like.keys() {
                    self.column(&values.iter().filter_map(|value| value.get(name)).collect::<Vec<_>>());
                }
            }
        }
    }

    fn arrays(&mut self, arrays: &[&Vec<Value>]) {
        let places = arrays.first().map_or(0, |first| first.len());
        if (1..=MAX_PLACES).contains(&places) && arrays.iter().all(|array| array.len() == places) {
            self.class(Class::Places);
            self.number(places as u64);
            for place in 0..places {
                self.column(&arrays.iter().filter_map(|array| array.get(place)).collect::<Vec<_>>());
            }
        } else {
            self.class(Class::Arrays);
            arrays.iter().for_each(|array| self.number(array.len() as u64));
            self.column(&arrays.iter().flat_map(|array| array.iter()).collect::<Vec<_>>());
        }
    }

    fn texts<'a>(&mut self, texts: impl Iterator<Item = &'a str> + Clone) {
        texts.clone().for_each(|text| self.number(text.len() as u64));
        texts.for_each(|text| self.out.extend(text.as_bytes()));
    }

    fn whole(&mut self, numbers: &[u64]) {
        let plain: usize = numbers.iter().map(|number| bytes_of(*number)).sum();
        let differing: usize = differences(numbers).map(bytes_of).sum();
        // A few small numbers happen to be bounds.
        let buckets: Option<Vec<u64>> =
            if numbers.len() < 8 { None } else { numbers.iter().map(|number| bucket(*number)).collect() };
        let of_buckets = buckets.as_deref().map_or(usize::MAX, |buckets| differences(buckets).map(bytes_of).sum());
        let way = if of_buckets < plain.min(differing) {
            Way::Buckets
        } else if differing < plain {
            Way::Differences
        } else {
            Way::Plain
        };
        self.out.push(way as u8);
        match (way, buckets) {
            (Way::Buckets, Some(buckets)) => differences(&buckets).for_each(|number| self.number(number)),
            (Way::Differences, _) => differences(numbers).for_each(|number| self.number(number)),
            _ => numbers.iter().for_each(|number| self.number(*number)),
        }
    }

    fn points(&mut self, numbers: &[f64]) {
        let scaled =
            |factor: f64| -> Option<Vec<u64>> { numbers.iter().map(|number| exact(*number, factor)).collect() };
        if let Some(whole) = scaled(1.0) {
            self.out.push(WHOLE);
            self.whole(&whole);
        } else if let Some(nano) = scaled(1e9) {
            self.out.push(NANO);
            self.whole(&nano);
        } else {
            self.out.push(BITS);
            numbers.iter().for_each(|number| self.out.extend(number.to_bits().to_be_bytes()));
        }
    }

    fn class(&mut self, class: Class) {
        self.out.push(class as u8);
    }

    /// Seven bits a byte, the lowest first.
    fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.out.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.out.push(number as u8);
    }
}

/// A number with a point as a whole number of parts of 1, if it is exactly that.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::float_cmp, reason = "compared bit by bit")]
fn exact(number: f64, factor: f64) -> Option<u64> {
    let scaled = (number * factor).round();
    if !(0.0..=MAX_WHOLE).contains(&scaled) {
        return None;
    }
    let whole = scaled as u64;
    (inexact(whole, factor).to_bits() == number.to_bits()).then_some(whole)
}

#[allow(clippy::cast_precision_loss, reason = "at most 2^53, or checked")]
fn inexact(whole: u64, factor: f64) -> f64 {
    whole as f64 / factor
}

/// The bucket of a histogram that begins with this number: sixteen for each power of two.
fn bucket(bound: u64) -> Option<u64> {
    if bound < 32 {
        return Some(bound);
    }
    let shift = u64::from(bound.ilog2()) - 4;
    let top = bound >> shift;
    (top << shift == bound).then_some(32 + (shift - 1) * 16 + (top - 16))
}

fn bound(bucket: u64) -> Option<u64> {
    if bucket < 32 {
        return Some(bucket);
    }
    let (shift, top) = ((bucket - 32) / 16 + 1, (bucket - 32) % 16 + 16);
    (shift < 60).then(|| top << shift)
}

fn differences(numbers: &[u64]) -> impl Iterator<Item = u64> {
    let mut last = 0u64;
    numbers.iter().map(move |number| {
        let difference = number.wrapping_sub(last).cast_signed();
        last = *number;
        zigzag(difference)
    })
}

const fn zigzag(number: i64) -> u64 {
    (number.cast_unsigned() << 1) ^ (number >> 63).cast_unsigned()
}

const fn unzigzag(number: u64) -> i64 {
    (number >> 1).cast_signed() ^ -((number & 1).cast_signed())
}

const fn bytes_of(number: u64) -> usize {
    (64 - (number | 1).leading_zeros() as usize).div_ceil(7)
}

struct Unpacker<'a> {
    rest: &'a [u8],
    values: usize,
}

impl<'a> Unpacker<'a> {
    fn column(&mut self, count: usize, depth: u32) -> Option<Vec<Value>> {
        self.values = self.values.checked_add(count)?;
        if depth > MAX_DEPTH || self.values > MAX_VALUES {
            return None;
        }
        let depth = depth + 1;
        Some(match Class::of_byte(self.byte()?)? {
            Class::Null => vec![Value::Null; count],
            Class::False => vec![Value::Bool(false); count],
            Class::True => vec![Value::Bool(true); count],
            Class::Whole => self.whole(count)?.into_iter().map(Value::from).collect(),
            Class::Negative => {
                (0..count).map(|_| Some(Value::from(unzigzag(self.number()?)))).collect::<Option<_>>()?
            }
            Class::Point => self.points(count)?,
            Class::Text => self.texts(count)?.into_iter().map(Value::String).collect(),
            Class::Places => {
                let places = self.count()?;
                let mut arrays = vec![Vec::with_capacity(places.min(MAX_PLACES)); count];
                for _ in 0..places {
                    let column = self.column(count, depth)?;
                    arrays.iter_mut().zip(column).for_each(|(array, value)| array.push(value));
                }
                arrays.into_iter().map(Value::Array).collect()
            }
            Class::Arrays => {
                let lengths = self.counts(count)?;
                let mut all = self.column(total(&lengths)?, depth)?.into_iter();
                lengths.into_iter().map(|length| Value::Array(all.by_ref().take(length).collect())).collect()
            }
            Class::Objects => {
                let names = self.count()?;
                let names = self.texts(names)?;
                let mut objects = vec![Map::new(); count];
                for name in names {
                    let column = self.column(count, depth)?;
                    objects.iter_mut().zip(column).for_each(|(object, value)| drop(object.insert(name.clone(), value)));
                }
                objects.into_iter().map(Value::Object).collect()
            }
            Class::Maps => {
                let lengths = self.counts(count)?;
                let all = total(&lengths)?;
                let mut names = self.texts(all)?.into_iter();
                let mut values = self.column(all, depth)?.into_iter();
                let mut object = |length| names.by_ref().zip(values.by_ref()).take(length).collect();
                lengths.into_iter().map(|length| Value::Object(object(length))).collect()
            }
            Class::Several => {
                let kinds = self.count()?;
                let of_each = self.counts(count)?;
                let mut columns = Vec::new();
                for kind in 0..kinds {
                    let of_kind = of_each.iter().filter(|of| **of == kind).count();
                    columns.push(self.column(of_kind, depth)?.into_iter());
                }
                of_each.into_iter().map(|kind| columns.get_mut(kind)?.next()).collect::<Option<_>>()?
            }
        })
    }

    fn whole(&mut self, count: usize) -> Option<Vec<u64>> {
        let way = Way::of_byte(self.byte()?)?;
        let mut last = 0u64;
        let mut numbers = Vec::with_capacity(count.min(self.rest.len()));
        for _ in 0..count {
            let number = self.number()?;
            if way == Way::Plain {
                numbers.push(number);
                continue;
            }
            last = last.wrapping_add(unzigzag(number).cast_unsigned());
            numbers.push(if way == Way::Buckets { bound(last)? } else { last });
        }
        Some(numbers)
    }

    fn points(&mut self, count: usize) -> Option<Vec<Value>> {
        let point = |number| Number::from_f64(number).map(Value::Number);
        match self.byte()? {
            BITS => (0..count)
                .map(|_| {
                    let (bytes, rest) = self.rest.split_first_chunk::<8>()?;
                    self.rest = rest;
                    point(f64::from_bits(u64::from_be_bytes(*bytes)))
                })
                .collect(),
            way @ (WHOLE | NANO) => {
                let factor = if way == WHOLE { 1.0 } else { 1e9 };
                self.whole(count)?.into_iter().map(|whole| point(inexact(whole, factor))).collect()
            }
            _ => None,
        }
    }

    fn texts(&mut self, count: usize) -> Option<Vec<String>> {
        let lengths = self.counts(count)?;
        let mut texts = Vec::with_capacity(lengths.len());
        for length in lengths {
            let (text, rest) = self.rest.split_at_checked(length)?;
            self.rest = rest;
            texts.push(str::from_utf8(text).ok()?.to_owned());
        }
        Some(texts)
    }

    fn counts(&mut self, count: usize) -> Option<Vec<usize>> {
        if count > self.rest.len() {
            return None;
        }
        (0..count).map(|_| self.count()).collect()
    }

    fn count(&mut self) -> Option<usize> {
        usize::try_from(self.number()?).ok().filter(|count| *count <= MAX_VALUES)
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*byte)
    }
}

fn total(lengths: &[usize]) -> Option<usize> {
    lengths.iter().try_fold(0usize, |sum, length| sum.checked_add(*length))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn survives(value: &Value) {
        let packed = pack(value);
        assert_eq!(unpack(&packed).as_ref(), Some(value), "{packed:?}");
        // Equal numbers may be written differently: 1 and 1.0, 0.0 and -0.0.
        assert_eq!(unpack(&packed).unwrap().to_string(), value.to_string());
    }

    #[test]
    fn everything_survives() {
        for value in [
            json!(null),
            json!([]),
            json!({}),
            json!([null, true, false, 0, -1, 0.0, -0.0, "", "ä", [], {}, [[]], {"": {}}]),
            json!([u64::MAX, 0, u64::MAX - 1, 1]),
            json!([i64::MIN, -1, 0, 5]),
            json!([1.5, 0.1, 1e300, -7.25, 5e-324, 0.428_228_555, 9_007_199_254_740_993.0, 1e22]),
            json!([[0.0, 54924767232.0], [0.428_228_555, 1.0], [0.844_936_277, 7.0]]),
            json!([
                [1856, 1],
                [1920, 19],
                [1984, 15],
                [2048, 12],
                [2176, 3],
                [2304, 1],
                [2432, 9],
                [1u64 << 63, 1],
                [31, 1]
            ]),
            json!([{"a": 1, "b": null}, {"a": 2, "b": []}, {"a": 3}, {"a": 4, "b": [1]}]),
            json!({"1": {"pid": 1}, "40": {"pid": 40}, "7": {"pid": 7}}),
            json!([{"1": {"a": 1}, "2": {"a": 1}}, {"5": {"a": 1}, "7": {"a": 2}}, {"a": {"a": 2}, "b": {"b": 2}}]),
        ] {
            survives(&value);
        }
    }

    #[test]
    fn buckets_are_those_of_histograms() {
        for number in 0..976 {
            assert_eq!(bucket(bound(number).unwrap()), Some(number));
        }
        assert_eq!((bucket(33), bucket(34), bucket(1857)), (None, Some(33), None));
        assert_eq!(bound(u64::MAX), None);
    }

    #[test]
    fn small_claims_of_much_are_refused() {
        // An array of 2^24 nulls in an array of many.
        let mut packer = Packer { out: Vec::new() };
        packer.class(Class::Places);
        packer.number(MAX_VALUES as u64);
        packer.out.extend([0; 64]);
        assert_eq!(unpack(&packer.out), None);
        assert_eq!(unpack(&[Class::Places as u8, 1].repeat(100_000)), None);
        let mut packer = Packer { out: vec![Class::Arrays as u8] };
        packer.number(u64::MAX);
        assert_eq!(unpack(&packer.out), None);
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            (0..2000u64).prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            (0..100_000_000_000u64).prop_map(|nano| Value::from(nano as f64 / 1e9)),
            "[a-zé]{0,4}".prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 60, 8, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
                proptest::collection::btree_map("[a-c]{1,2}", inner, 0..6)
                    .prop_map(|object| Value::Object(object.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_json_survives(value in any_json()) {
            survives(&value);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(0..16u8, 0..60)) {
            let _ = unpack(&bytes);
        }

        #[test]
        fn damaged_ones_do_not_make_it_panic(value in any_json(), at in any::<prop::sample::Index>(), to in any::<u8>()) {
            let mut packed = pack(&value);
            let at = at.index(packed.len());
            packed[at] = to;
            let _ = unpack(&packed);
        }
    }
}
