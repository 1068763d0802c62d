//! A machine with one CPU.

use crate::guest::{read, watched};
use crate::truth::works;

#[test]
fn it_works() {
    assert_eq!(read("/sys/devices/system/cpu/possible"), "0");
    watched(works);
}
