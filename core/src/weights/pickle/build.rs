//! What calls turn into: tensors where the name is one of torch's, inert objects otherwise.

use std::rc::Rc;

use super::{
    super::bytes::{Bytes, broken},
    Node, Storage, Stored, Value,
    machine::Machine,
};
use crate::Result;

/// Modules that no checkpoint needs and that attacks on pickle readers name.
const HOSTILE: [&str; 28] = [
    "os",
    "posix",
    "nt",
    "subprocess",
    "sys",
    "runpy",
    "pty",
    "socket",
    "ctypes",
    "importlib",
    "pickle",
    "_pickle",
    "shutil",
    "webbrowser",
    "code",
    "codeop",
    "bdb",
    "pdb",
    "timeit",
    "cProfile",
    "profile",
    "asyncio",
    "multiprocessing",
    "threading",
    "operator",
    "pydoc",
    "http",
    "urllib",
];
/// Functions of Python itself that run or fetch code.
const HOSTILE_BUILTINS: [&str; 11] =
    ["eval", "exec", "execfile", "compile", "open", "getattr", "setattr", "__import__", "globals", "input", "apply"];
/// Dimensions of one tensor.
const MOST_DIMS: usize = 16;
/// Rebuilding functions that wrap each other.
const MOST_NESTING: usize = 8;

/// Refuses names that only an attack needs. Nothing is ever called, so this does not protect this program; it tells the
/// user what kind of file this is, before it reaches a program that would call it.
pub(super) fn check(bytes: &Bytes, module: &str, name: &str) -> Result<()> {
    let top = module.split('.').next().unwrap_or(module);
    let first = name.split('.').next().unwrap_or(name);
    let builtin = matches!(top, "builtins" | "__builtin__") && HOSTILE_BUILTINS.contains(&first);
    if builtin || HOSTILE.contains(&top) {
        return Err(broken(
            bytes.path(),
            format!(
                "refused: the pickled table names `{module}.{name}`, which runs code and has no place among weights"
            ),
            "do not open this file with other programs; get the checkpoint as safetensors, from a source you trust",
        ));
    }
    Ok(())
}

impl Machine<'_, '_> {
    fn tuple(&self, value: &Value) -> Option<Rc<[Value]>> {
        match self.heap.node(value)? {
            Node::Tuple(items) => Some(items.clone()),
            Node::List(items) => Some(items.as_slice().into()),
            _ => None,
        }
    }

    fn name(&self, value: &Value) -> Option<Rc<str>> {
        match self.heap.node(value)? {
            Node::Global(name) => Some(name.clone()),
            _ => None,
        }
    }

    fn sizes(&self, value: &Value) -> Option<Vec<usize>> {
        let items = self.tuple(value).filter(|items| items.len() <= MOST_DIMS)?;
        items.iter().map(|item| if let Value::Int(n) = item { usize::try_from(*n).ok() } else { None }).collect()
    }
}

/// `callable(*arguments)`, as a value.
pub(super) fn call(machine: &mut Machine<'_, '_>, callable: &Value, arguments: &Value) -> Result<()> {
    let name = machine.name(callable).unwrap_or_else(|| "something that is not a name".into());
    let arguments = machine.tuple(arguments).unwrap_or_else(|| Rc::new([]));
    reduce(machine, &name, &arguments, 0)
}

fn reduce(machine: &mut Machine<'_, '_>, name: &str, arguments: &[Value], depth: usize) -> Result<()> {
    match (name, arguments) {
        ("torch._utils._rebuild_tensor_v2" | "torch._utils._rebuild_tensor" | "torch._utils._rebuild_tensor_v3", _) => {
            let dtype = arguments.get(6).and_then(|value| machine.name(value));
            let stored = rebuild(machine, arguments, dtype);
            let stored = stored.ok_or_else(|| machine.input.error("a tensor whose description makes no sense"))?;
            machine.push_node(Node::Tensor(Rc::new(stored)))
        }
        ("torch._utils._rebuild_parameter" | "torch._utils._rebuild_parameter_with_state", [data, ..]) => {
            machine.push(data.clone())
        }
        ("torch._tensor._rebuild_from_type_v2", [inner, _, inner_arguments, ..]) if depth < MOST_NESTING => {
            let inner = machine.name(inner).unwrap_or_else(|| "something that is not a name".into());
            let inner_arguments = machine.tuple(inner_arguments).unwrap_or_else(|| Rc::new([]));
            reduce(machine, &inner, &inner_arguments, depth + 1)
        }
        ("collections.OrderedDict" | "builtins.dict" | "__builtin__.dict", _) => {
            let items = arguments.first().and_then(|value| machine.tuple(value)).unwrap_or_else(|| Rc::new([]));
            let pair = |item: &Value| match &*machine.tuple(item)? {
                [key, value] => Some((key.clone(), value.clone())),
                _ => None,
            };
            let items = items.iter().filter_map(pair).collect();
            machine.push_node(Node::Dict(items))
        }
        ("collections.defaultdict", _) => machine.push_node(Node::Dict(Vec::new())),
        ("builtins.set" | "__builtin__.set" | "builtins.frozenset" | "builtins.list", _) => {
            machine.push_node(Node::List(Vec::new()))
        }
        _ => {
            if machine.heap.inert.len() < 256 {
                machine.heap.inert.insert(name.to_owned());
            }
            machine.push_node(Node::Object { state: None, items: Vec::new() })
        }
    }
}

fn rebuild(machine: &Machine<'_, '_>, arguments: &[Value], dtype: Option<Rc<str>>) -> Option<Stored> {
    let [storage, offset, shape, strides, ..] = arguments else { return None };
    let Node::Storage(storage) = machine.heap.node(storage)? else { return None };
    let Value::Int(offset) = offset else { return None };
    let (shape, strides) = (machine.sizes(shape)?, machine.sizes(strides)?);
    let offset = u64::try_from(*offset).ok()?;
    (shape.len() == strides.len()).then(|| Stored { storage: storage.clone(), dtype, offset, shape, strides })
}

/// A persistent id: `("storage", class, key, place, elements)`, and in old files a view of another storage.
pub(super) fn storage(machine: &mut Machine<'_, '_>, id: &Value) -> Result<()> {
    let parts = machine.tuple(id).unwrap_or_else(|| Rc::new([]));
    let storage = match &*parts {
        [Value::Text(kind), class, Value::Text(key), _, Value::Int(len), rest @ ..]
            if &**kind == "storage" && matches!(rest, [] | [Value::None]) =>
        {
            let class = machine.name(class);
            class.zip(u64::try_from(*len).ok()).map(|(class, len)| Storage { class, key: key.clone(), len })
        }
        _ => None,
    };
    let storage = storage.ok_or_else(|| machine.input.error("a reference to something other than plain numbers"))?;
    machine.push_node(Node::Storage(Rc::new(storage)))
}
