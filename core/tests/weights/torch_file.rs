//! Writes files as torch.save does, and broken ones as it does not.

/// A pickle in the making.
#[derive(Default)]
pub struct Pickle(pub Vec<u8>);

impl Pickle {
    pub fn new() -> Self {
        Self(vec![0x80, 2])
    }

    pub fn op(&mut self, op: u8) -> &mut Self {
        self.0.push(op);
        self
    }

    pub fn text(&mut self, text: &str) -> &mut Self {
        self.op(b'X').0.extend((text.len() as u32).to_le_bytes());
        self.0.extend(text.bytes());
        self
    }

    pub fn int(&mut self, value: i64) -> &mut Self {
        self.0.extend([0x8a, 8]);
        self.0.extend(value.to_le_bytes());
        self
    }

    pub fn ints(&mut self, values: &[usize]) -> &mut Self {
        self.op(b'(');
        for &value in values {
            self.int(value as i64);
        }
        self.op(b't')
    }

    pub fn global(&mut self, module: &str, name: &str) -> &mut Self {
        self.0.extend(format!("c{module}\n{name}\n").bytes());
        self
    }

    pub fn tensor(&mut self, view: &View) -> &mut Self {
        self.global("torch._utils", "_rebuild_tensor_v2").op(b'(').op(b'(').text("storage").global("torch", view.class);
        self.text(view.key).text("cpu").int(view.len as i64).op(b't').op(b'Q').int(view.offset as i64);
        self.ints(&view.shape).ints(&view.strides).op(0x89).global("collections", "OrderedDict").op(b')').op(b'R');
        self.op(b't').op(b'R')
    }
}

/// A tensor as it is pickled.
#[derive(Clone)]
pub struct View {
    pub class: &'static str,
    pub key: &'static str,
    /// Elements of the storage.
    pub len: usize,
    pub offset: usize,
    pub shape: Vec<usize>,
    pub strides: Vec<usize>,
}

impl View {
    /// A whole storage, row by row.
    pub fn whole(class: &'static str, key: &'static str, shape: &[usize]) -> Self {
        let strides = (0..shape.len()).map(|i| shape[i + 1..].iter().product()).collect();
        Self { class, key, len: shape.iter().product(), offset: 0, shape: shape.to_vec(), strides }
    }
}

/// A dictionary of tensors.
pub fn state_dict(views: &[(&str, View)]) -> Pickle {
    let mut pickle = Pickle::new();
    pickle.op(b'}').op(b'(');
    for (name, view) in views {
        pickle.text(name).tensor(view);
    }
    pickle.op(b'u').op(b'.');
    pickle
}

/// A zip archive of plain entries; with `wide` all sizes and places are in zip64 fields.
pub fn zip(entries: &[(&str, &[u8])], wide: bool) -> Vec<u8> {
    let mut out = Vec::new();
    let mut directory = Vec::new();
    for (name, bytes) in entries {
        let (at, size) = (out.len() as u64, bytes.len() as u64);
        let short = |value: u64| if wide { u32::MAX } else { value as u32 }.to_le_bytes();
        let head = |out: &mut Vec<u8>| {
            out.extend([45, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            out.extend([short(size), short(size)].concat());
            out.extend((name.len() as u16).to_le_bytes());
        };
        out.extend(b"PK\x03\x04");
        head(&mut out);
        // Padding as torch writes it, so that numbers are aligned.
        out.extend(6u16.to_le_bytes());
        out.extend(name.bytes());
        out.extend(*b"FB\x02\x00ZZ");
        out.extend(*bytes);
        let mut extra = Vec::new();
        if wide {
            extra.extend([1, 0, 24, 0]);
            extra.extend([size, size, at].map(u64::to_le_bytes).concat());
        }
        directory.extend(b"PK\x01\x02\x00\x00");
        head(&mut directory);
        directory.extend((extra.len() as u16).to_le_bytes());
        directory.extend([0; 10]);
        directory.extend(short(at));
        directory.extend(name.bytes());
        directory.extend(extra);
    }
    let (at, len, count) = (out.len() as u64, directory.len() as u64, entries.len() as u64);
    out.extend(directory);
    if wide {
        let record = out.len() as u64;
        out.extend(b"PK\x06\x06");
        out.extend(44u64.to_le_bytes());
        out.extend([45, 0, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        out.extend([count, count, len, at].map(u64::to_le_bytes).concat());
        out.extend(b"PK\x06\x07\x00\x00\x00\x00");
        out.extend(record.to_le_bytes());
        out.extend(1u32.to_le_bytes());
    }
    out.extend(b"PK\x05\x06\x00\x00\x00\x00");
    let count = if wide { u16::MAX } else { count as u16 }.to_le_bytes();
    out.extend([count, count].concat());
    let (len, at) = if wide { (u32::MAX, u32::MAX) } else { (len as u32, at as u32) };
    out.extend([len.to_le_bytes(), at.to_le_bytes()].concat());
    out.extend([0, 0]);
    out
}

/// A checkpoint: a table and its storages.
pub fn archive(table: &Pickle, storages: &[(&str, &[u8])], wide: bool) -> Vec<u8> {
    let names: Vec<_> = storages.iter().map(|(key, _)| format!("m/data/{key}")).collect();
    let mut entries: Vec<(&str, &[u8])> = vec![("m/data.pkl", &table.0), ("m/byteorder", b"little")];
    entries.extend(names.iter().zip(storages).map(|(name, (_, bytes))| (name.as_str(), *bytes)));
    entries.push(("m/version", b"3\n"));
    zip(&entries, wide)
}

pub fn f32s(values: impl IntoIterator<Item = f32>) -> Vec<u8> {
    values.into_iter().flat_map(f32::to_le_bytes).collect()
}
