//! One story per test, named after the section that tells it.

mod election;
