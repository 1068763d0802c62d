//! The kernel side's sets of things in flight: a place has one owner, whoever else wants one meanwhile, and what finds no place is told.

use aya::maps::Array;
use aya::programs::SocketFilter;
use aya::{Ebpf, EbpfLoader};
use zerocopy::FromBytes;

use crate::histogram::run;

/// `struct tally`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes)]
#[repr(C)]
struct Tally {
    taken: u64,
    full: u64,
    given_back: u64,
    shared: u64,
    next_number: u64,
    pad: [u64; 3],
}

// SAFETY: plain numbers.
unsafe impl aya::Pod for Tally {}

fn load(claims: u32) -> Ebpf {
    let mut loader = EbpfLoader::new();
    loader.override_global("cfg_claims", &claims, true);
    let mut ebpf = loader.load(aya::include_bytes_aligned!("../../objects/in_flight_test.bpf.o")).unwrap();
    program(&mut ebpf).load().unwrap();
    ebpf
}

fn program(ebpf: &mut Ebpf) -> &mut SocketFilter {
    ebpf.program_mut("on_run").unwrap().try_into().unwrap()
}

/// Of all CPUs.
fn sum(ebpf: &Ebpf) -> Tally {
    let tallies = Array::<_, Tally>::try_from(ebpf.map("tallies").unwrap()).unwrap();
    tallies.iter().map(Result::unwrap).fold(Tally::default(), |sum, of| Tally {
        taken: sum.taken + of.taken,
        full: sum.full + of.full,
        given_back: sum.given_back + of.given_back,
        shared: sum.shared + of.shared,
        ..sum
    })
}

#[test]
fn a_set_has_eight_places_and_what_is_given_back_is_free() {
    let mut ebpf = load(12);
    run(program(&mut ebpf), 1000);
    let expected = Tally { taken: 8000, full: 4000, given_back: 8000, ..Tally::default() };
    assert_eq!(sum(&ebpf), expected);
}

#[test]
fn a_place_has_one_owner_when_several_cpus_want_one() {
    const RUNS: u64 = 400_000;
    let mut ebpf = load(5);
    let program = &*program(&mut ebpf);
    // Each on a CPU of its own, as far as there are any: the kernel does not move a task in the middle of a run.
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..RUNS / 4 / 1000).for_each(|_| run(program, 1000)));
        }
    });
    let sum = sum(&ebpf);
    assert_eq!(sum.shared, 0, "{sum:?}");
    assert_eq!(sum.taken, sum.given_back, "{sum:?}");
    assert_eq!(sum.taken + sum.full, RUNS * 5, "{sum:?}");
    assert!(sum.taken > RUNS, "{sum:?}");
}
