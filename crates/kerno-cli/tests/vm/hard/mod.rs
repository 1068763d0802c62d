//! What a machine in use should be spared. In each: no panic, no complaint of the kernel, every event accounted for, and nothing left in
//! the kernel.
