//! The stack machine: one opcode after the other, from a list of those that make data.

use std::{collections::HashMap, rc::Rc};

use super::{Heap, Input, MOST_NODES, MOST_STACK, Node, Value, build};
use crate::Result;

pub(super) struct Machine<'a, 'b> {
    pub(super) input: &'a mut Input<'b>,
    pub(super) heap: Heap,
    stack: Vec<Value>,
    marks: Vec<usize>,
    memo: HashMap<u32, Value>,
}

/// Reads one pickle up to its end.
pub(crate) fn load(input: &mut Input<'_>) -> Result<(Heap, Value)> {
    let mut machine =
        Machine { input, heap: Heap::default(), stack: Vec::new(), marks: Vec::new(), memo: HashMap::new() };
    while let Some(op) = machine.next_op()? {
        machine.step(op)?;
    }
    let root = machine.pop()?;
    Ok((machine.heap, root))
}

impl Machine<'_, '_> {
    /// The next opcode, or nothing at `STOP`.
    fn next_op(&mut self) -> Result<Option<u8>> {
        let op = self.input.byte()?;
        Ok((op != b'.').then_some(op))
    }

    fn step(&mut self, op: u8) -> Result<()> {
        match op {
            // Protocol number; frame length.
            0x80 => drop(self.input.array::<1>()?),
            0x95 => drop(self.input.array::<8>()?),
            b'(' => {
                if self.marks.len() >= MOST_STACK {
                    return Err(self.input.error("too many marks"));
                }
                self.marks.push(self.stack.len());
            }
            b'0' => drop(self.pop()?),
            b'1' => drop(self.pop_mark()?),
            b'2' => {
                let top = self.top()?.clone();
                self.push(top)?;
            }
            b'N' => self.push(Value::None)?,
            0x88 | 0x89 => self.push(Value::Other)?,
            b'J' => {
                let value = i32::from_le_bytes(self.input.array()?);
                self.push(Value::Int(value.into()))?;
            }
            b'K' => {
                let value = self.input.byte()?;
                self.push(Value::Int(value.into()))?;
            }
            b'M' => {
                let value = u16::from_le_bytes(self.input.array()?);
                self.push(Value::Int(value.into()))?;
            }
            b'I' | b'L' => self.text_number()?,
            0x8a => {
                let len = self.input.byte()?;
                self.long(len.into())?;
            }
            0x8b => {
                let len = u32::from_le_bytes(self.input.array()?);
                self.long(len.into())?;
            }
            b'F' => {
                self.input.line()?;
                self.push(Value::Other)?;
            }
            b'G' => {
                self.input.array::<8>()?;
                self.push(Value::Other)?;
            }
            // Text, with its length in 1, 4 or 8 bytes, or up to the end of the line.
            b'U' | 0x8c => self.sized::<1>(true)?,
            b'T' | b'X' => self.sized::<4>(true)?,
            0x8d => self.sized::<8>(true)?,
            b'V' => {
                let text = self.input.line()?;
                self.push(Value::Text(text.into()))?;
            }
            b'S' => {
                let text = self.input.line()?;
                self.push(Value::Text(text.trim_matches(['\'', '"']).into()))?;
            }
            // Bytes, likewise.
            b'C' => self.sized::<1>(false)?,
            b'B' => self.sized::<4>(false)?,
            0x8e | 0x96 => self.sized::<8>(false)?,
            b']' | 0x8f => self.push_node(Node::List(Vec::new()))?,
            b')' => self.push_node(Node::Tuple(Rc::new([])))?,
            b'}' => self.push_node(Node::Dict(Vec::new()))?,
            b'l' | 0x91 => {
                let items = self.pop_mark()?;
                self.push_node(Node::List(items))?;
            }
            b't' => {
                let items = self.pop_mark()?;
                self.push_node(Node::Tuple(items.into()))?;
            }
            0x85..=0x87 => {
                let start = self.stack.len().checked_sub(usize::from(op - 0x84));
                let start = start.filter(|start| self.marks.last().is_none_or(|mark| mark <= start));
                let items = start.map(|start| self.stack.split_off(start)).ok_or_else(|| self.empty())?;
                self.push_node(Node::Tuple(items.into()))?;
            }
            b'd' => {
                let items = self.pop_mark()?;
                self.push_node(Node::Dict(pairs(items)))?;
            }
            b'a' => {
                let item = self.pop()?;
                self.extend(vec![item])?;
            }
            b'e' | 0x90 => {
                let items = self.pop_mark()?;
                self.extend(items)?;
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.insert(vec![key, value])?;
            }
            b'u' => {
                let items = self.pop_mark()?;
                self.insert(items)?;
            }
            b'p' | b'q' | b'r' | 0x94 => self.memoize(op)?,
            b'g' | b'h' | b'j' => self.recall(op)?,
            b'c' => {
                let (module, name) = (self.input.line()?, self.input.line()?);
                self.global(&module, &name)?;
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (Value::Text(module), Value::Text(name)) = (module, name) else {
                    return Err(self.input.error("a global name that is not text"));
                };
                self.global(&module, &name)?;
            }
            b'R' | 0x81 => {
                let arguments = self.pop()?;
                let callable = self.pop()?;
                build::call(self, &callable, &arguments)?;
            }
            0x92 => {
                let (_keywords, arguments) = (self.pop()?, self.pop()?);
                let callable = self.pop()?;
                build::call(self, &callable, &arguments)?;
            }
            b'b' => {
                let given = self.pop()?;
                if let Value::Node(index) = self.top()?.clone()
                    && let Some(Node::Object { state, .. }) = self.heap.nodes.get_mut(index)
                {
                    *state = Some(given);
                }
            }
            b'Q' => {
                let id = self.pop()?;
                build::storage(self, &id)?;
            }
            other => return Err(self.input.error(format!("opcode {other:#04x} has no place in a table of tensors"))),
        }
        Ok(())
    }

    fn empty(&self) -> crate::Error {
        self.input.error("the stack is empty")
    }

    fn top(&self) -> Result<&Value> {
        let floor = self.marks.last().copied().unwrap_or(0);
        self.stack.last().filter(|_| self.stack.len() > floor).ok_or_else(|| self.empty())
    }

    fn pop(&mut self) -> Result<Value> {
        self.top()?;
        self.stack.pop().ok_or_else(|| self.empty())
    }

    fn pop_mark(&mut self) -> Result<Vec<Value>> {
        let mark = self.marks.pop().filter(|&mark| mark <= self.stack.len());
        mark.map(|mark| self.stack.split_off(mark)).ok_or_else(|| self.input.error("there is no mark"))
    }

    pub(super) fn push(&mut self, value: Value) -> Result<()> {
        if self.stack.len() >= MOST_STACK {
            return Err(self.input.error("the stack is too deep"));
        }
        self.stack.push(value);
        Ok(())
    }

    pub(super) fn push_node(&mut self, node: Node) -> Result<()> {
        if self.heap.nodes.len() >= MOST_NODES {
            return Err(self.input.error("too many values"));
        }
        self.heap.nodes.push(node);
        self.push(Value::Node(self.heap.nodes.len() - 1))
    }

    fn sized<const N: usize>(&mut self, text: bool) -> Result<()> {
        let mut wide = [0; 8];
        wide[..N].copy_from_slice(&self.input.array::<N>()?);
        let bytes = self.input.string(u64::from_le_bytes(wide))?;
        self.push(if text { Value::Text(String::from_utf8_lossy(&bytes).into()) } else { Value::Other })
    }

    fn text_number(&mut self) -> Result<()> {
        let line = self.input.line()?;
        self.push(match line.trim_end_matches('L') {
            // The old way to write false and true.
            "00" | "01" => Value::Other,
            digits => digits.parse().map_or(Value::Other, Value::Int),
        })
    }

    /// A little-endian two's complement integer; beyond 64 bits it is nothing that leads to a tensor.
    fn long(&mut self, len: u64) -> Result<()> {
        let bytes = self.input.string(len)?;
        let fill = if bytes.last().is_some_and(|&b| b >= 0x80) { 0xff } else { 0 };
        let mut wide = [fill; 8];
        let fits = bytes.len() <= 8;
        if fits {
            wide[..bytes.len()].copy_from_slice(&bytes);
        }
        self.push(if fits { Value::Int(i64::from_le_bytes(wide)) } else { Value::Other })
    }

    fn global(&mut self, module: &str, name: &str) -> Result<()> {
        build::check(self.input.bytes(), module, name)?;
        self.push_node(Node::Global(format!("{module}.{name}").into()))
    }

    fn extend(&mut self, items: Vec<Value>) -> Result<()> {
        if let Value::Node(index) = self.top()?.clone()
            && let Some(Node::List(list)) = self.heap.nodes.get_mut(index)
        {
            list.extend(items);
        }
        Ok(())
    }

    fn insert(&mut self, items: Vec<Value>) -> Result<()> {
        if let Value::Node(index) = self.top()?.clone()
            && let Some(Node::Dict(dict) | Node::Object { items: dict, .. }) = self.heap.nodes.get_mut(index)
        {
            dict.extend(pairs(items));
        }
        Ok(())
    }

    fn slot(&mut self, op: u8) -> Result<u32> {
        match op {
            b'p' | b'g' => {
                let line = self.input.line()?;
                line.trim().parse().map_err(|_| self.input.error("a memo number that is none"))
            }
            b'q' | b'h' => Ok(self.input.byte()?.into()),
            b'r' | b'j' => Ok(u32::from_le_bytes(self.input.array()?)),
            _ => Ok(self.memo.len() as u32),
        }
    }

    fn memoize(&mut self, op: u8) -> Result<()> {
        let slot = self.slot(op)?;
        let value = self.top()?.clone();
        if self.memo.len() >= MOST_NODES {
            return Err(self.input.error("the memo is too large"));
        }
        self.memo.insert(slot, value);
        Ok(())
    }

    fn recall(&mut self, op: u8) -> Result<()> {
        let slot = self.slot(op)?;
        let value = self.memo.get(&slot).cloned();
        let value = value.ok_or_else(|| self.input.error(format!("memo entry {slot} was never made")))?;
        self.push(value)
    }
}

fn pairs(items: Vec<Value>) -> Vec<(Value, Value)> {
    let mut items = items.into_iter();
    std::iter::from_fn(|| Some((items.next()?, items.next()?))).collect()
}
