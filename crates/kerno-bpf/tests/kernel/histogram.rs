//! The bucket arithmetic of the kernel side, run in the kernel, against the Rust side's.

use std::os::fd::{AsFd as _, AsRawFd as _};

use aya::Ebpf;
use aya::maps::{Map, MapData};
use aya::programs::SocketFilter;
use aya_obj::generated::{bpf_attr, bpf_cmd};
use kerno_model::Histogram;

/// The kernel gives these as one page-aligned run of 8-byte elements.
fn mapped(map: &MapData, elements: usize) -> memmap2::MmapRaw {
    memmap2::MmapOptions::new().len(elements * 8).map_raw(map.fd().as_fd().as_raw_fd()).unwrap()
}

/// Runs a program this often.
pub(crate) fn run(program: &SocketFilter, repeat: u32) {
    let packet = [0u8; 64];
    // SAFETY: a plain C struct for which all zeroes is a valid value.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    attr.test.prog_fd = program.fd().unwrap().as_fd().as_raw_fd().cast_unsigned();
    attr.test.data_in = packet.as_ptr() as u64;
    attr.test.data_size_in = 64;
    attr.test.repeat = repeat;
    // SAFETY: a whole bpf_attr; the packet outlives the call.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, bpf_cmd::BPF_PROG_TEST_RUN as libc::c_long, &raw mut attr, size_of::<bpf_attr>())
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn kernel_and_user_side_have_the_same_buckets_over_all_of_u64() {
    let mut values: Vec<u64> =
        (0..976).flat_map(|bucket| [Histogram::bounds(bucket).0, Histogram::bounds(bucket).1]).collect();
    values.extend((0..64).flat_map(|bit| [-1i64, 0, 1].map(|by| (1u64 << bit).wrapping_add_signed(by))));
    values.extend(0..70_000);
    // Random values of every size: xorshift, cut to a random number of bits.
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    for _ in 0..1_000_000 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        values.push(state >> (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 58));
    }

    let mut ebpf = Ebpf::load(aya::include_bytes_aligned!("../../objects/histogram_test.bpf.o")).unwrap();
    let mut take = |name: &str| match ebpf.take_map(name) {
        Some(Map::Array(map)) => map,
        _ => panic!("no array {name}"),
    };
    let (input, output) = (take("values"), take("buckets"));
    let (to, from) = (mapped(&input, 1 << 21), mapped(&output, 1 << 21));
    assert!(values.len() < 1 << 21);
    // SAFETY: the mapping has room for 2^21 values, and nothing else uses it.
    unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), to.as_mut_ptr().cast::<u64>(), values.len()) };
    let program: &mut SocketFilter = ebpf.program_mut("on_run").unwrap().try_into().unwrap();
    program.load().unwrap();
    // In pieces: the kernel may stop a long run of repetitions for a signal.
    for piece in values.chunks(1 << 16) {
        run(program, u32::try_from(piece.len()).unwrap());
    }
    for (i, value) in values.iter().enumerate() {
        // SAFETY: within the mapping; the program has finished.
        let bucket = unsafe { from.as_ptr().cast::<u64>().add(i).read_volatile() };
        assert_eq!(bucket, Histogram::bucket(*value) as u64, "value {value}");
    }
}
