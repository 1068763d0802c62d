//! Under each of these conditions kerno works, with figures that are exact, or says which privilege, setting or part of the kernel it
//! lacks and what to do.

mod cgroup_hybrid;
mod cgroup_v1;
mod cgroup_v2;
mod cpus;
mod lockdown;
mod memlock;
mod no_btf;
mod one_cpu;
mod privileges;
mod sysctls;
