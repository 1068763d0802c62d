//! How much of the stack the programs need: all functions on the way to a call have 512 bytes together (`MAX_BPF_STACK`), and kernels before
//! 6.8 take each one's frame for a multiple of 32 bytes.

use std::collections::{BTreeMap, BTreeSet};

use aya_obj::generated::bpf_insn;

use super::{PLANNED, assert_none};

const LIMIT: usize = 512;
const ROUNDED_TO: usize = 32;

const CALL: u8 = 0x85;
const PSEUDO_CALL: u8 = 1;
const FRAME_POINTER: u8 = 10;

/// Classes of instructions that go to memory: LDX, ST, STX; and the two that make an address of the frame's.
const LDX: u8 = 0x01;
const ST: u8 = 0x02;
const STX: u8 = 0x03;
const MOVE: u8 = 0xbf;
const ADD_NUMBER: u8 = 0x07;

/// What each function of a linked program does, by its first instruction.
#[derive(Debug, Default)]
struct Frame {
    bytes: usize,
    calls: BTreeSet<usize>,
}

fn frames(instructions: &[bpf_insn]) -> BTreeMap<usize, Frame> {
    let called = |(at, instruction): (usize, &bpf_insn)| {
        let is_ours = instruction.code == CALL && instruction.src_reg() == PSEUDO_CALL;
        is_ours.then(|| (at + 1).checked_add_signed(isize::try_from(instruction.imm).unwrap()).unwrap())
    };
    let mut frames: BTreeMap<usize, Frame> =
        instructions.iter().enumerate().filter_map(called).map(|at| (at, Frame::default())).collect();
    frames.entry(0).or_default();
    let mut of_frame = [false; 11];
    for (at, instruction) in instructions.iter().enumerate() {
        if frames.contains_key(&at) {
            of_frame = [false; 11];
        }
        let (to, from) = (instruction.dst_reg(), instruction.src_reg());
        let base = match instruction.code & 0x07 {
            LDX => from,
            ST | STX => to,
            _ => 0,
        };
        let mut lowest = 0;
        if base == FRAME_POINTER {
            lowest = i64::from(instruction.off);
        } else if instruction.code == ADD_NUMBER && of_frame[usize::from(to)] {
            lowest = i64::from(instruction.imm);
        }
        of_frame[usize::from(to)] = instruction.code == MOVE && from == FRAME_POINTER;
        let frame = frames.range_mut(..=at).next_back().unwrap().1;
        frame.bytes = frame.bytes.max(usize::try_from(-lowest).unwrap_or(0));
        frame.calls.extend(called((at, instruction)));
    }
    frames
}

/// The most that is in use at a time, from a function on; the verifier allows no function to come to call itself.
fn deepest(frames: &BTreeMap<usize, Frame>, function: usize) -> usize {
    let frame = &frames[&function];
    let below = frame.calls.iter().map(|called| deepest(frames, *called)).max().unwrap_or(0);
    frame.bytes.max(1).next_multiple_of(ROUNDED_TO) + below
}

#[test]
fn every_program_has_the_stack_that_old_kernels_give() {
    let mut failures = BTreeSet::new();
    let mut most = 0;
    for planned in PLANNED.iter() {
        let bytes = deepest(&frames(planned.linked.instructions(planned.program)), 0);
        most = most.max(bytes);
        if bytes > LIMIT {
            failures.insert(format!("{} needs {bytes} bytes of the stack", planned.place()));
        }
    }
    assert_none(&failures);
    assert!(most > LIMIT / 2, "at most {most} bytes: what is looked at?");
}

/// What a program does is counted: its own frame, and those of the functions that it calls in turn.
#[test]
fn frames_on_the_way_to_a_call_add_up() {
    let instruction = |code: u8, to: u8, from: u8, off: i16, imm: i32| {
        // SAFETY: a struct of numbers.
        let mut made: bpf_insn = unsafe { std::mem::zeroed() };
        (made.code, made.off, made.imm) = (code, off, imm);
        made.set_dst_reg(to);
        made.set_src_reg(from);
        made
    };
    let call = |at: i32, target: i32| instruction(CALL, 0, PSEUDO_CALL, 0, target - at - 1);
    let exit = instruction(0x95, 0, 0, 0, 0);
    let program = [
        instruction(0x7b, FRAME_POINTER, 1, -40, 0),
        call(1, 4),
        call(2, 7),
        exit,
        // 4: 33 bytes through another register, and a call.
        instruction(MOVE, 2, FRAME_POINTER, 0, 0),
        instruction(ADD_NUMBER, 2, 0, 0, -33),
        call(6, 9),
        // 7: more bytes than that one, but it calls nobody.
        instruction(0x7b, FRAME_POINTER, 1, -96, 0),
        exit,
        // 9
        exit,
    ];
    assert_eq!(deepest(&frames(&program), 0), 64 + 64 + 32);
    assert_eq!(deepest(&frames(&program), 7), 96);
}
