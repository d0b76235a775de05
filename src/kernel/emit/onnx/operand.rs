//! Arguments of kernels as values of a graph, and results in the formats of golden sets.

use super::builder::{Builder, Value};
use crate::dtype::Dtype;
use crate::dtype::codec::decode_table;
use crate::kernel::reference::array::{Array, Arrays};
use crate::onnx_protobuf::tensor_proto::DataType;
use serde_json::{Map, Value as Json};

/// A kernel's call: what its graph is built from. Only formats and shapes of the arrays are looked at, but for what
/// decides whether a graph can be exact at all.
pub(super) struct Call<'a> {
    pub(super) kernel: &'a str,
    pub(super) params: &'a Map<String, Json>,
    pub(super) inputs: &'a Arrays,
    pub(super) outputs: &'a Arrays,
}

impl<'a> Call<'a> {
    /// A text parameter without spaces, or `default`.
    pub(super) fn text(&self, name: &str, default: &str) -> String {
        self.params.get(name).and_then(Json::as_str).unwrap_or(default).replace(' ', "")
    }

    /// A flag, or `default`.
    pub(super) fn flag(&self, name: &str, default: bool) -> bool {
        self.params.get(name).and_then(Json::as_bool).unwrap_or(default)
    }

    /// A real parameter, or `default`.
    pub(super) fn real(&self, name: &str, default: f64) -> f64 {
        self.params.get(name).and_then(Json::as_f64).unwrap_or(default)
    }

    /// An unsigned parameter, or `default`.
    pub(super) fn unsigned(&self, name: &str, default: usize) -> usize {
        let value = self.params.get(name).and_then(Json::as_u64);
        value.and_then(|v| usize::try_from(v).ok()).unwrap_or(default)
    }

    /// The parameter `block`, or `default`, its zeros replaced by the whole axis.
    pub(super) fn block(&self, default: [usize; 2], shape: [usize; 2]) -> [usize; 2] {
        let sides = self.params.get("block").and_then(Json::as_array);
        let side = |i: usize| {
            let given = sides.and_then(|s| s.get(i)).and_then(Json::as_u64);
            match given.and_then(|s| usize::try_from(s).ok()).unwrap_or(default[i]) {
                0 => shape[i].max(1),
                side => side,
            }
        };
        [side(0), side(1)]
    }

    /// The array of an argument.
    pub(super) fn array(&self, name: &str) -> Option<&'a Array> {
        self.inputs.get(name)
    }

    /// The format of a result.
    pub(super) fn wanted(&self, name: &str) -> Option<Dtype> {
        self.outputs.get(name).map(|array| array.dtype)
    }
}

/// The type of an array at the border of a graph. Formats of 4 bits and E8M0 are bytes, because onnxruntime's CPU provider
/// has no kernels for them.
fn border(dtype: Dtype) -> Option<DataType> {
    Some(match dtype {
        Dtype::U8 | Dtype::U4 | Dtype::I4 | Dtype::F4E2M1 | Dtype::F8E8M0 => DataType::UINT8,
        Dtype::I8 => DataType::INT8,
        Dtype::F8E4M3 => DataType::FLOAT8E4M3FN,
        Dtype::F8E5M2 => DataType::FLOAT8E5M2,
        Dtype::F8E4M3Fnuz => DataType::FLOAT8E4M3FNUZ,
        Dtype::F8E5M2Fnuz => DataType::FLOAT8E5M2FNUZ,
        Dtype::BF16 => DataType::BFLOAT16,
        Dtype::F16 => DataType::FLOAT16,
        Dtype::F32 => DataType::FLOAT,
        Dtype::F64 => DataType::DOUBLE,
        Dtype::I32 => DataType::INT32,
        Dtype::I64 => DataType::INT64,
        _ => return None,
    })
}

/// A graph under construction with the arguments that it takes.
pub(super) struct Frame<'a> {
    pub(super) call: &'a Call<'a>,
    pub(super) b: Builder,
}

impl<'a> Frame<'a> {
    /// A graph whose inputs are the call's, in order of their names.
    pub(super) fn new(call: &'a Call<'a>) -> Option<Self> {
        let mut b = Builder::default();
        for (name, array) in call.inputs {
            b.input(name, border(array.dtype)?, &array.shape);
        }
        Some(Self { call, b })
    }

    /// An argument as it enters.
    pub(super) fn raw(&self, name: &str) -> Option<Value> {
        let array = self.call.array(name)?;
        Some(Value { name: name.to_owned(), shape: array.shape.clone() })
    }

    /// The values of an argument as FLOAT, exact.
    pub(super) fn floats(&mut self, name: &str) -> Option<Value> {
        let dtype = self.call.array(name)?.dtype;
        let raw = self.raw(name)?;
        Some(match dtype {
            Dtype::F32 => raw,
            Dtype::U4 | Dtype::I4 | Dtype::F4E2M1 => {
                let codes = self.nibbles(&raw);
                self.lookup(&codes, &decode_table(dtype)[..16])
            }
            Dtype::F8E8M0 => {
                let codes = self.b.cast(&raw, DataType::INT32);
                self.lookup(&codes, &decode_table(dtype))
            }
            _ => self.b.cast(&raw, DataType::FLOAT),
        })
    }

    /// The values of an argument as DOUBLE, exact.
    pub(super) fn doubles(&mut self, name: &str) -> Option<Value> {
        let floats = self.floats(name)?;
        Some(self.b.cast(&floats, DataType::DOUBLE))
    }

    /// The values of `codes` in a table.
    fn lookup(&mut self, codes: &Value, table: &[f32]) -> Value {
        let table = self.b.f32s(table);
        self.b.gather(&table, codes, 0)
    }

    /// Codes of 4 bits from pairs, the even element in the low nibble, as INT32.
    pub(super) fn nibbles(&mut self, pairs: &Value) -> Value {
        let mut shape = pairs.shape.clone();
        let one = [&shape[..], &[1]].concat();
        let mask = self.b.constant(DataType::UINT8, &[], vec![15]);
        let shift = self.b.constant(DataType::UINT8, &[], vec![4]);
        let low = self.b.binary("BitwiseAnd", pairs, &mask);
        let right = vec![("direction", super::builder::Attribute::Text("RIGHT"))];
        let high = self.b.node("BitShift", &[pairs, &shift], right, shape.clone());
        let [low, high] = [low, high].map(|v| self.b.reshape(&v, &one));
        let both = self.b.concat(&[&low, &high], one.len() - 1);
        if let Some(last) = shape.last_mut() {
            *last *= 2;
        }
        let codes = self.b.reshape(&both, &shape);
        self.b.cast(&codes, DataType::INT32)
    }

    /// Pairs of 4-bit codes (INT32, an even number per row) as UINT8, the even element in the low nibble.
    pub(super) fn pairs(&mut self, codes: &Value) -> Value {
        let rank = codes.shape.len();
        let mut packed = codes.shape.clone();
        packed[rank - 1] /= 2;
        let split = self.b.reshape(codes, &[&packed[..], &[2]].concat());
        let [low, high] = [0, 1].map(|i| {
            let half = self.b.slice(&split, rank, i..i + 1);
            self.b.reshape(&half, &packed)
        });
        let sixteen = self.b.i32(16);
        let high = self.b.binary("Mul", &high, &sixteen);
        let both = self.b.binary("Add", &low, &high);
        self.b.cast(&both, DataType::UINT8)
    }

    /// FLOAT values that were computed as the output `name`: NaNs become the positive quiet one, BF16 is rounded and
    /// leaves as FLOAT, because Python can neither feed nor read BFLOAT16 arrays.
    pub(super) fn computed(&mut self, name: &str, value: &Value) -> Option<()> {
        let nan = self.b.f32(f32::from_bits(0x7FC0_0000));
        let is_nan = self.b.unary("IsNaN", value);
        let quiet = self.b.select(&is_nan, &nan, value);
        self.rounded(name, &quiet)
    }

    /// FLOAT values without a NaN that arithmetic made, as the output `name`.
    pub(super) fn rounded(&mut self, name: &str, value: &Value) -> Option<()> {
        match self.call.wanted(name)? {
            Dtype::F32 => self.b.output(value, name, DataType::FLOAT),
            Dtype::F16 => {
                let rounded = self.b.cast(value, DataType::FLOAT16);
                self.b.output(&rounded, name, DataType::FLOAT16);
            }
            Dtype::BF16 => {
                let rounded = self.bf16(value);
                self.b.output(&rounded, name, DataType::FLOAT);
            }
            _ => return None,
        }
        Some(())
    }

    /// FLOAT values rounded to BF16, as FLOAT.
    pub(super) fn bf16(&mut self, value: &Value) -> Value {
        let rounded = self.b.cast(value, DataType::BFLOAT16);
        self.b.cast(&rounded, DataType::FLOAT)
    }

    /// `value` with +0 for −0, which the first sum from +0 makes of it.
    pub(super) fn plus_zero(&mut self, value: &Value, zero: &Value) -> Value {
        let is_zero = self.b.binary("Equal", value, zero);
        self.b.select(&is_zero, zero, value)
    }

    /// The model.
    pub(super) fn finish(self, doc: &str) -> Option<Vec<u8>> {
        self.b.finish(self.call.kernel, doc)
    }
}
