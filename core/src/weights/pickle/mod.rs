//! A reader of pickled data that never runs anything.
//!
//! Pickle is a small stack language whose `REDUCE` calls any function it can name. Here a call only ever becomes a value:
//! the handful of names that make up a tensor turn into tensors ([`build`]), every other name turns into an inert object
//! that remembers what it was called, and names that only an attack needs end the reading. Opcodes outside the list,
//! and anything beyond the caps below, end it too.

mod build;
mod input;
mod machine;

use std::rc::Rc;

pub(super) use self::{input::Input, machine::load};

/// Bytes of pickle that are read; the tensors themselves lie outside it.
const MOST_BYTES: u64 = 64 << 20;
/// Values that are made.
const MOST_NODES: usize = 2 << 20;
/// Entries on the stack, and in the memo.
const MOST_STACK: usize = 1 << 20;
/// Bytes in one string.
const MOST_STRING: u64 = 8 << 20;

/// A value; what can be shared or changed later lies in the [`Heap`].
#[derive(Debug, Clone)]
pub(super) enum Value {
    None,
    Int(i64),
    Text(Rc<str>),
    Node(usize),
    /// Truth values, floats, bytes and long integers: nothing that leads to a tensor.
    Other,
}

/// A value that can be shared or changed later.
#[derive(Debug)]
pub(super) enum Node {
    List(Vec<Value>),
    Tuple(Rc<[Value]>),
    Dict(Vec<(Value, Value)>),
    /// `module.name`, not looked up.
    Global(Rc<str>),
    Storage(Rc<Storage>),
    Tensor(Rc<Stored>),
    /// Something that would be the result of a call, with the state and the items it would be given.
    Object {
        state: Option<Value>,
        items: Vec<(Value, Value)>,
    },
}

/// Numbers that tensors are views of.
#[derive(Debug)]
pub(super) struct Storage {
    /// Its class, such as `torch.FloatStorage`.
    pub(super) class: Rc<str>,
    /// Its name in the archive.
    pub(super) key: Rc<str>,
    /// Number of elements it claims.
    pub(super) len: u64,
}

/// A view of a storage, in elements.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) storage: Rc<Storage>,
    /// Type where the storage has none of its own, such as `torch.uint16`.
    pub(super) dtype: Option<Rc<str>>,
    pub(super) offset: u64,
    pub(super) shape: Vec<usize>,
    pub(super) strides: Vec<usize>,
}

/// All shared values of one pickle.
#[derive(Debug, Default)]
pub(super) struct Heap {
    nodes: Vec<Node>,
    /// Names of what became inert, sorted, each once.
    pub(super) inert: std::collections::BTreeSet<String>,
}

impl Heap {
    pub(super) fn node(&self, value: &Value) -> Option<&Node> {
        match value {
            Value::Node(index) => self.nodes.get(*index),
            _ => None,
        }
    }
}
