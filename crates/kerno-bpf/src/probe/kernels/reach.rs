//! Which instructions of a program can run, as far as constants decide: a small part of what the verifier does. It finds the branches
//! that a kernel does not take because a field or a knob is not there, and errs towards "can run".

use std::collections::{BTreeMap, BTreeSet};

use aya_obj::generated::bpf_insn;

use super::relocations::poison_number;

const CLASS: u8 = 0x07;
const LD: u8 = 0x00;
const LDX: u8 = 0x01;
const ST: u8 = 0x02;
const STX: u8 = 0x03;
const ALU: u8 = 0x04;
const JMP: u8 = 0x05;
const JMP32: u8 = 0x06;
const ALU64: u8 = 0x07;

const OP: u8 = 0xf0;
const FROM_REGISTER: u8 = 0x08;

const MODE: u8 = 0xe0;
const ATOMIC: u8 = 0xc0;
/// An atomic operation that also gives the old value (Linux 5.12).
const FETCH: i32 = 0x01;

const SIZE: u8 = 0x18;

/// `ldimm64`
const LOAD_CONSTANT: u8 = 0x18;
const PSEUDO_MAP_VALUE: u8 = 2;
const PSEUDO_FUNCTION: u8 = 4;
const PSEUDO_CALL: u8 = 1;

const CALL: u8 = 0x80;
const EXIT: u8 = 0x90;
const ALWAYS: u8 = 0x00;

const FRAME_POINTER: u8 = 10;

/// What is known of a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    Any,
    Constant(u64),
    /// A place in `.rodata`.
    Knob(u64),
    /// A place in the program's context.
    Context(i64),
    /// A tracepoint's argument.
    Argument(usize),
}

/// Bytes of `.rodata` that the kernel decides; what is not here may be anything.
pub(super) type Knobs = BTreeMap<u64, u8>;

/// A linked program.
pub(super) struct Program<'a> {
    pub(super) instructions: &'a [bpf_insn],
    /// The descriptor that stands for `.rodata`.
    pub(super) rodata: Option<i32>,
    pub(super) knobs: &'a Knobs,
}

/// What a program can do.
#[derive(Debug, Default)]
pub(super) struct Reached {
    /// Numbers of relocations without a target.
    pub(super) poisons: BTreeSet<usize>,
    pub(super) helpers: BTreeSet<u32>,
    /// Arguments of the tracepoint that are read.
    pub(super) arguments: BTreeSet<usize>,
    /// Instructions that go from an argument to a place in what it points to.
    pub(super) looks_into: BTreeSet<(usize, usize)>,
    pub(super) fetches: bool,
    /// How many instructions can run, in words of 8 bytes as the kernel counts them.
    pub(super) words: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct State {
    registers: [Value; 11],
    /// Where the compiler keeps the context and the arguments while registers are short.
    spilled: BTreeMap<i16, Value>,
}

impl State {
    fn entry(arguments: [Value; 5]) -> Self {
        let mut registers = [Value::Any; 11];
        registers[1..6].copy_from_slice(&arguments);
        Self { registers, spilled: BTreeMap::new() }
    }

    fn get(&self, register: u8) -> Value {
        self.registers[usize::from(register)]
    }

    fn set(&mut self, register: u8, value: Value) {
        self.registers[usize::from(register)] = value;
    }

    /// Keeps what both agree on; true when that is less than it was.
    fn join(&mut self, other: &Self) -> bool {
        let before = self.clone();
        for (mine, theirs) in self.registers.iter_mut().zip(other.registers) {
            if *mine != theirs {
                *mine = Value::Any;
            }
        }
        self.spilled.retain(|slot, value| other.spilled.get(slot) == Some(value));
        *self != before
    }
}

impl Program<'_> {
    pub(super) fn reach(&self) -> Reached {
        let mut reached = Reached::default();
        let mut states = BTreeMap::new();
        let mut open = Vec::new();
        let visit = |at: usize, state: State, open: &mut Vec<usize>, states: &mut BTreeMap<usize, State>| {
            let changed = match states.entry(at) {
                std::collections::btree_map::Entry::Vacant(place) => {
                    place.insert(state);
                    true
                }
                std::collections::btree_map::Entry::Occupied(mut known) => known.get_mut().join(&state),
            };
            if changed {
                open.push(at);
            }
        };
        let [context, any] = [Value::Context(0), Value::Any];
        visit(0, State::entry([context, any, any, any, any]), &mut open, &mut states);
        while let Some(at) = open.pop() {
            let state = states[&at].clone();
            for (next, state) in self.step(at, state, &mut reached) {
                visit(next, state, &mut open, &mut states);
            }
        }
        let words = |at: &usize| if self.instructions[*at].code == LOAD_CONSTANT { 2 } else { 1 };
        reached.words = states.keys().map(words).sum();
        reached
    }

    /// What comes after an instruction, and with which state.
    fn step(&self, at: usize, mut state: State, reached: &mut Reached) -> Vec<(usize, State)> {
        let instruction = &self.instructions[at];
        let (code, to, from) = (instruction.code, instruction.dst_reg(), instruction.src_reg());
        match code & CLASS {
            ALU | ALU64 => {
                let value = self.computed(instruction, &state);
                if let (0x00, Value::Argument(index)) = (code & OP, state.get(to)) {
                    reached.looks_into.insert((at, index));
                }
                state.set(to, value);
            }
            LD => {
                if code == LOAD_CONSTANT {
                    let high = self.instructions[at + 1].imm;
                    state.set(to, self.loaded_constant(instruction, high));
                    let mut next = vec![(at + 2, state)];
                    if from == PSEUDO_FUNCTION {
                        next.push((self.target(at, instruction.imm), State::entry([Value::Any; 5])));
                    }
                    return next;
                }
                state.set(0, Value::Any);
            }
            LDX => {
                if let Value::Argument(index) = state.get(from) {
                    reached.looks_into.insert((at, index));
                }
                state.set(to, self.loaded(instruction, &state, reached));
            }
            ST | STX => {
                if code & CLASS == STX && code & MODE == ATOMIC && instruction.imm & FETCH != 0 {
                    reached.fetches = true;
                    state.set(0, Value::Any);
                    state.set(from, Value::Any);
                } else if to == FRAME_POINTER {
                    let value = if code & CLASS == STX { state.get(from) } else { Value::Any };
                    match value {
                        Value::Context(_) | Value::Argument(_) => state.spilled.insert(instruction.off, value),
                        _ => state.spilled.remove(&instruction.off),
                    };
                }
            }
            JMP | JMP32 => return self.jumps(at, state, reached),
            _ => {}
        }
        vec![(at + 1, state)]
    }

    fn computed(&self, instruction: &bpf_insn, state: &State) -> Value {
        let wide = instruction.code & CLASS == ALU64;
        let cut = |value: u64| if wide { value } else { value & u64::from(u32::MAX) };
        let operand = if instruction.code & FROM_REGISTER != 0 {
            state.get(instruction.src_reg())
        } else {
            Value::Constant(sign_extended(instruction.imm))
        };
        let operation = instruction.code & OP;
        // mov, but not its sign-extending forms.
        if operation == 0xb0 {
            return match operand {
                Value::Constant(value) if instruction.off == 0 => Value::Constant(cut(value)),
                value if wide && instruction.off == 0 => value,
                _ => Value::Any,
            };
        }
        match (state.get(instruction.dst_reg()), operand, operation) {
            (Value::Knob(place), Value::Constant(by), 0x00) if wide => Value::Knob(place.wrapping_add(by)),
            (Value::Context(place), Value::Constant(by), 0x00) if wide => {
                Value::Context(place.wrapping_add_unsigned(by))
            }
            (Value::Constant(mine), Value::Constant(other), _) => {
                let (mine, other) = (cut(mine), cut(other));
                let shift = u32::try_from(other & if wide { 63 } else { 31 }).unwrap();
                match operation {
                    0x00 => Value::Constant(cut(mine.wrapping_add(other))),
                    0x10 => Value::Constant(cut(mine.wrapping_sub(other))),
                    0x40 => Value::Constant(mine | other),
                    0x50 => Value::Constant(mine & other),
                    0x60 => Value::Constant(cut(mine << shift)),
                    0x70 => Value::Constant(mine >> shift),
                    0xa0 => Value::Constant(mine ^ other),
                    _ => Value::Any,
                }
            }
            // What is masked with nothing is nothing.
            (_, Value::Constant(0), 0x50) => Value::Constant(0),
            _ => Value::Any,
        }
    }

    fn loaded_constant(&self, instruction: &bpf_insn, high: i32) -> Value {
        #[allow(clippy::cast_sign_loss, reason = "two halves of a word")]
        let [low, high] = [instruction.imm as u32, high as u32].map(u64::from);
        match instruction.src_reg() {
            0 => Value::Constant(low | high << 32),
            PSEUDO_MAP_VALUE if self.rodata == Some(instruction.imm) => Value::Knob(high),
            _ => Value::Any,
        }
    }

    fn loaded(&self, instruction: &bpf_insn, state: &State, reached: &mut Reached) -> Value {
        let (from, off) = (instruction.src_reg(), instruction.off);
        match state.get(from) {
            Value::Knob(place) => self.knob(place.wrapping_add_signed(i64::from(off)), bytes_of(instruction)),
            Value::Context(place) => {
                let argument = usize::try_from(place + i64::from(off)).unwrap() / 8;
                reached.arguments.insert(argument);
                Value::Argument(argument)
            }
            _ if from == FRAME_POINTER => state.spilled.get(&off).copied().unwrap_or(Value::Any),
            _ => Value::Any,
        }
    }

    fn knob(&self, place: u64, bytes: u64) -> Value {
        let value =
            (0..bytes).rev().try_fold(0, |value: u64, i| Some(value << 8 | u64::from(*self.knobs.get(&(place + i))?)));
        value.map_or(Value::Any, Value::Constant)
    }

    fn jumps(&self, at: usize, mut state: State, reached: &mut Reached) -> Vec<(usize, State)> {
        let instruction = &self.instructions[at];
        let (code, to, from) = (instruction.code, instruction.dst_reg(), instruction.src_reg());
        match code & OP {
            EXIT => return Vec::new(),
            CALL => {
                let mut next = Vec::new();
                if from == PSEUDO_CALL {
                    let arguments = std::array::from_fn(|i| state.registers[i + 1]);
                    next.push((self.target(at, instruction.imm), State::entry(arguments)));
                } else if let Some(number) = poison_number(instruction.imm) {
                    reached.poisons.insert(number);
                    return next;
                } else {
                    reached.helpers.insert(u32::try_from(instruction.imm).unwrap());
                }
                for register in 0..=5 {
                    state.set(register, Value::Any);
                }
                next.push((at + 1, state));
                return next;
            }
            ALWAYS => {
                let by = if code & CLASS == JMP32 { instruction.imm } else { i32::from(instruction.off) };
                return vec![(self.target(at, by), state)];
            }
            _ => {}
        }
        let operand =
            if code & FROM_REGISTER != 0 { state.get(from) } else { Value::Constant(sign_extended(instruction.imm)) };
        let taken = match (state.get(to), operand) {
            (Value::Constant(mine), Value::Constant(other)) => compared(code, mine, other),
            _ => None,
        };
        let mut next = Vec::new();
        if taken != Some(false) {
            next.push((self.target(at, i32::from(instruction.off)), state.clone()));
        }
        if taken != Some(true) {
            next.push((at + 1, state));
        }
        next
    }

    fn target(&self, at: usize, by: i32) -> usize {
        (at + 1).checked_add_signed(isize::try_from(by).unwrap()).unwrap()
    }
}

/// Whether a jump is taken; `None` for what this does not know.
fn compared(code: u8, mine: u64, other: u64) -> Option<bool> {
    let cut = |value: u64| if code & CLASS == JMP { value } else { value & u64::from(u32::MAX) };
    #[allow(clippy::cast_possible_wrap, clippy::cast_possible_truncation, reason = "the same bits, seen as signed")]
    let signed = |value: u64| if code & CLASS == JMP { value as i64 } else { i64::from(value as i32) };
    let (mine, other) = (cut(mine), cut(other));
    Some(match code & OP {
        0x10 => mine == other,
        0x20 => mine > other,
        0x30 => mine >= other,
        0x40 => mine & other != 0,
        0x50 => mine != other,
        0x60 => signed(mine) > signed(other),
        0x70 => signed(mine) >= signed(other),
        0xa0 => mine < other,
        0xb0 => mine <= other,
        0xc0 => signed(mine) < signed(other),
        0xd0 => signed(mine) <= signed(other),
        _ => return None,
    })
}

#[allow(clippy::cast_sign_loss, reason = "the same bits")]
fn sign_extended(value: i32) -> u64 {
    i64::from(value) as u64
}

const fn bytes_of(instruction: &bpf_insn) -> u64 {
    match instruction.code & SIZE {
        0x00 => 4,
        0x08 => 2,
        0x10 => 1,
        _ => 8,
    }
}
