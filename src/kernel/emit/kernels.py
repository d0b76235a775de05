#!/usr/bin/env python3
"""Reference kernels in NumPy, written from their specification and from nothing else.

    kernels.py [--case KERNEL[/CASE]] [DIR]                     run the golden cases of DIR (default: .)
    kernels.py --compare FILE --case KERNEL/CASE[:OUTPUT] [DIR] measure FILE.npy against a golden output

Exit code: 0 equal, 1 different, 2 unreadable. Needs NumPy only. BF16, FP8 and FP4 are integers and tables here; sums that are
exact by specification are formed in binary64 where that is exact and in integers of any length elsewhere. The same inputs give
the same bits on every machine: nothing depends on how a library orders a floating-point sum.
"""
import json
import math
import os
import sys

import numpy as np

f32, f64, u8, u16, u32 = np.float32, np.float64, np.uint8, np.uint16, np.uint32


# ---- formats ----

def minifloat(exponent_bits, mantissa_bits, bias, specials):
    """The values of every code, NaNs with their sign."""
    width = 1 + exponent_bits + mantissa_bits
    out = np.zeros(1 << width, f32)
    for code in range(1 << width):
        sign = code >> (width - 1)
        exponent = code >> mantissa_bits & (1 << exponent_bits) - 1
        mantissa = code & (1 << mantissa_bits) - 1
        implied = 1 if exponent else 0
        value = (implied + mantissa / (1 << mantissa_bits)) * 2.0 ** (max(exponent, 1) - bias)
        top = exponent == (1 << exponent_bits) - 1
        if specials == "ieee" and top:
            value = math.inf if mantissa == 0 else math.nan
        if specials == "nan" and top and mantissa == (1 << mantissa_bits) - 1:
            value = math.nan
        if specials == "fnuz" and code == 1 << (width - 1):
            value = math.nan
        if math.isnan(value):
            out.view(u32)[code] = 0xFFC00000 if sign else 0x7FC00000
        else:
            out[code] = -value if sign else value
    return out


def e8m0():
    bits = np.arange(256, dtype=u32) << u32(23)
    bits[0], bits[255] = 0x00400000, 0x7FC00000
    return bits.view(f32)


TABLES = {
    "F8_E4M3": minifloat(4, 3, 7, "nan"),
    "F8_E5M2": minifloat(5, 2, 15, "ieee"),
    "F8_E4M3FNUZ": minifloat(4, 3, 8, "fnuz"),
    "F8_E5M2FNUZ": minifloat(5, 2, 16, "fnuz"),
    "F8_E8M0": e8m0(),
    "F4": minifloat(2, 1, 1, ""),
    "U4": np.arange(16, dtype=f32),
    "I4": ((np.arange(16) ^ 8) - 8).astype(f32),
}
PACKED = ("F4", "U4", "I4")
STORED = {"I8": "|i1", "BF16": "<u2", "U16": "<u2", "I16": "<i2", "F16": "<f2", "I32": "<i4", "U32": "<u4", "F32": "<f4",
          "I64": "<i8", "U64": "<u8", "F64": "<f8"}


def unpack(raw):
    """One code per element from two per byte, the even element in the low nibble."""
    return np.stack([raw & 15, raw >> 4], axis=-1).reshape(*raw.shape[:-1], 2 * raw.shape[-1])


def pack(codes):
    return (codes[..., 0::2] & 15 | codes[..., 1::2] << 4).astype(u8)


def decode(raw, dtype):
    """The values of stored elements: binary32, or the integers or binary64 numbers that they are."""
    if dtype in PACKED:
        return TABLES[dtype][unpack(raw)]
    if dtype in TABLES:
        return TABLES[dtype][raw]
    if dtype == "BF16":
        return (raw.astype(u32) << u32(16)).view(f32)
    return raw.astype(f32) if dtype == "F16" else raw


def bf16_codes(x, keep_sign=False):
    """Binary32 to BF16 in integers: to nearest, ties to even."""
    bits = np.ascontiguousarray(x, f32).view(u32)
    out = ((bits + u32(0x7FFF) + (bits >> u32(16) & u32(1))) >> u32(16)).astype(u16)
    nan = u16(0x7FC0) | (bits >> u32(16) & u32(0x8000)).astype(u16) if keep_sign else u16(0x7FC0)
    return np.where((bits & u32(0x7FFFFFFF)) > 0x7F800000, nan, out)


def bf16(x):
    return decode(bf16_codes(x), "BF16")


def encode(x, dtype, keep_sign=False):
    """Computed binary32 values as stored elements. A NaN that arithmetic made has no sign."""
    if dtype == "BF16":
        return bf16_codes(x, keep_sign)
    if dtype == "F16":
        out = np.asarray(x, f32).astype(np.float16).view(u16)
        out[np.isnan(x)] = 0x7E00
        if keep_sign:
            out[np.isnan(x) & np.signbit(x)] = 0xFE00
        return out.view(np.float16)
    if dtype == "F32":
        out = np.array(x, f32)
        bits, nan = out.view(u32), np.isnan(out)
        bits[nan] = bits[nan] & u32(0x80000000 if keep_sign else 0) | u32(0x7FC00000)
        return out
    raise Refused(f"no output of format {dtype}")


def nearest(x, dtype, ties="even"):
    """The magnitude code nearest to |x|, saturating; ties to the even code or to the smaller magnitude."""
    magnitudes = TABLES[dtype][: len(TABLES[dtype]) // 2]
    magnitudes = magnitudes[np.isfinite(magnitudes)].astype(f64)
    middles = (magnitudes[1:] + magnitudes[:-1]) / 2
    a = np.abs(x.astype(f64))
    code = np.searchsorted(middles, a, side="left")
    if ties == "even":
        tie = (code < len(middles)) & (a == middles[np.minimum(code, len(middles) - 1)])
        code = np.where(tie & (code % 2 == 1), code + 1, code)
    return code.astype(u8)


def e4m3_codes(x):
    x = np.asarray(x, f32)
    code = np.where(np.isnan(x), u8(0x7F), nearest(np.where(np.isnan(x), f32(0), x), "F8_E4M3"))
    return code | (np.signbit(x).astype(u8) << u8(7))


def e2m1_codes(x):
    return nearest(x, "F4") | (np.signbit(x).astype(u8) << u8(3))


class Refused(Exception):
    pass


# ---- expf and log1pf, correctly rounded ----

EXP2_32 = np.array([float.fromhex(v) for v in """
0x1.0000000000000p+0 0x0.0p+0
0x1.059b0d3158574p+0 0x1.d73e2a475b465p-55
0x1.0b5586cf9890fp+0 0x1.8a62e4adc610bp-54
0x1.11301d0125b51p+0 -0x1.6c51039449b3ap-54
0x1.172b83c7d517bp+0 -0x1.19041b9d78a76p-55
0x1.1d4873168b9aap+0 0x1.e016e00a2643cp-54
0x1.2387a6e756238p+0 0x1.9b07eb6c70573p-54
0x1.29e9df51fdee1p+0 0x1.612e8afad1255p-55
0x1.306fe0a31b715p+0 0x1.6f46ad23182e4p-55
0x1.371a7373aa9cbp+0 -0x1.63aeabf42eae2p-54
0x1.3dea64c123422p+0 0x1.ada0911f09ebcp-55
0x1.44e086061892dp+0 0x1.89b7a04ef80d0p-59
0x1.4bfdad5362a27p+0 0x1.d4397afec42e2p-56
0x1.5342b569d4f82p+0 -0x1.07abe1db13cadp-55
0x1.5ab07dd485429p+0 0x1.6324c054647adp-54
0x1.6247eb03a5585p+0 -0x1.383c17e40b497p-54
0x1.6a09e667f3bcdp+0 -0x1.bdd3413b26456p-54
0x1.71f75e8ec5f74p+0 -0x1.16e4786887a99p-55
0x1.7a11473eb0187p+0 -0x1.41577ee04992fp-55
0x1.82589994cce13p+0 -0x1.d4c1dd41532d8p-54
0x1.8ace5422aa0dbp+0 0x1.6e9f156864b27p-54
0x1.93737b0cdc5e5p+0 -0x1.75fc781b57ebcp-57
0x1.9c49182a3f090p+0 0x1.c7c46b071f2bep-56
0x1.a5503b23e255dp+0 -0x1.d2f6edb8d41e1p-54
0x1.ae89f995ad3adp+0 0x1.7a1cd345dcc81p-54
0x1.b7f76f2fb5e47p+0 -0x1.5584f7e54ac3bp-56
0x1.c199bdd85529cp+0 0x1.11065895048ddp-55
0x1.cb720dcef9069p+0 0x1.503cbd1e949dbp-56
0x1.d5818dcfba487p+0 0x1.2ed02d75b3707p-55
0x1.dfc97337b9b5fp+0 -0x1.1a5cd4f184b5cp-54
0x1.ea4afa2a490dap+0 -0x1.e9c23179c2893p-54
0x1.f50765b6e4540p+0 0x1.9d3e12dd8a18bp-54
""".split()]).reshape(-1, 2)
LOG_C = np.array([float.fromhex(v) for v in """
0x1.fe02a6b100000p-8 0x1.9e23f0dda40e4p-46
0x1.7b91b07d60000p-6 -0x1.3b955b602ace4p-44
0x1.39e87b9fe8000p-5 0x1.eafd480ad9015p-44
0x1.b42dd71198000p-5 -0x1.c827ae5d6704cp-46
0x1.16536eea38000p-4 -0x1.47c5e768fa309p-46
0x1.51b073f060000p-4 0x1.83f69278e686ap-44
0x1.8c345d6318000p-4 0x1.b20f5acb42a66p-44
0x1.c5e548f5bc000p-4 0x1.d0c57585fbe06p-46
0x1.fec9131dc0000p-4 -0x1.54555d1ae6607p-44
0x1.1b72ad52f6000p-3 0x1.e80a41811a396p-45
0x1.371fc201e8000p-3 0x1.ee8779b2d8abcp-44
0x1.526e5e3a1c000p-3 -0x1.790ba37fc5238p-44
0x1.6d60fe719e000p-3 -0x1.bc6e557134767p-44
0x1.87fa06520c000p-3 0x1.22120401202fcp-44
0x1.a23bc1fe2c000p-3 -0x1.539cd91dc9f0bp-44
0x1.bc286742d8000p-3 0x1.9ac53f39d121cp-44
0x1.d5c216b4fc000p-3 -0x1.1ba91bbca681bp-45
0x1.ef0adcbdc6000p-3 -0x1.b26b79c86af24p-45
0x1.0402594b4d000p-2 0x1.036b89ef42d7fp-48
0x1.1058bf9ae5000p-2 -0x1.4ab9d817d52cdp-44
0x1.1c898c169a000p-2 -0x1.81410e5c62affp-44
0x1.2895a13de8000p-2 0x1.a8d7ad24c13f0p-44
0x1.347dd9a988000p-2 -0x1.5594dd4c58092p-45
0x1.404308686a000p-2 0x1.f8ef43049f7d3p-44
0x1.4be5f95778000p-2 -0x1.d7c92cd9ad824p-44
0x1.5767717456000p-2 -0x1.64ead9524d7cap-44
0x1.62c82f2b9c000p-2 0x1.e54bdbd7c8a98p-44
0x1.6e08eaa2ba000p-2 0x1.e38c139318d71p-46
0x1.792a55fdd4000p-2 0x1.e89f057691feap-44
0x1.842d1da1e9000p-2 -0x1.3a2db13ae687cp-44
0x1.8f11e87366000p-2 0x1.63bf0bb4eab4cp-45
0x1.99d958117e000p-2 0x1.1597525dd88f0p-47
0x1.a484090e5c000p-2 -0x1.3d7500d6523c5p-44
0x1.af12932478000p-2 -0x1.e53bb31eed7a9p-44
0x1.b985896931000p-2 0x1.f6b31f629f11ep-47
0x1.c3dd7a7cdb000p-2 -0x1.5946261f5a42bp-45
0x1.ce1af0b85f000p-2 0x1.f5bdbe95e5568p-45
0x1.d83e7258a3000p-2 -0x1.835f5d48ba26dp-47
0x1.e24881a7c7000p-2 -0x1.ecf1a1385d356p-45
0x1.ec399d2469000p-2 -0x1.9ff45188d6065p-45
0x1.f6123fa703000p-2 -0x1.d4e7aea4f0d25p-44
0x1.ffd2e0857f000p-2 0x1.261565f40d932p-44
0x1.04bdf9da92800p-1 -0x1.2d9a033eff74ep-45
0x1.0986f4f573800p-1 -0x1.6fa37012b5806p-44
0x1.0e44985d1d000p-1 -0x1.ba048a8d10b4bp-44
0x1.12f719593f000p-1 -0x1.0eb3fb7398e0cp-47
0x1.179eabbd89800p-1 0x1.a0bfc60e6fa08p-45
0x1.1c3b81f714000p-1 -0x1.eda1b58389902p-44
0x1.20cdcd192a800p-1 0x1.b6c9a81e87baep-44
0x1.2555bce98f800p-1 -0x1.a61fde292977ep-48
0x1.29d37fec2b000p-1 0x1.1590b9ad974bap-46
0x1.2e47436e40000p-1 0x1.34202a10c3491p-44
0x1.32b1339122000p-1 -0x1.4766fd54a4c27p-44
0x1.37117b5474800p-1 -0x1.28e88bf6deec9p-47
0x1.3b6844a000000p-1 -0x1.eea838909f3d3p-44
0x1.3fb5b84d17000p-1 -0x1.7b4962c55f46bp-46
0x1.43f9fe2f9d000p-1 -0x1.98858d84649f1p-45
0x1.48353d1ea8800p-1 0x1.bee7abd176604p-46
0x1.4c679afccf000p-1 -0x1.c64e971322ce8p-45
0x1.50913cc016800p-1 0x1.ad2f2ce96c2d6p-47
0x1.54b2467999800p-1 -0x1.b42b755eba5e1p-44
0x1.58cadb5cd7800p-1 0x1.893092f25d931p-45
0x1.5cdb1dc6c1800p-1 -0x1.36e612387451fp-46
0x1.60e32f4478800p-1 0x1.b194f912b416ap-46
""".split()]).reshape(-1, 2)

def _odd(hi, lo):
    b = hi.view(np.int64).copy()
    m = (lo != 0) & (b & 1 == 0)
    return np.where(m, b + np.where((lo > 0) == (hi > 0), 1, -1), b).view(np.float64)

def expf(x):
    x = np.asarray(x, np.float32); shape = x.shape; x = x.reshape(-1)
    with np.errstate(all="ignore"):
        d = np.where(x == x, np.clip(x, np.float32(-104), np.float32(89)), np.float32(0)).astype(np.float64)
        t = d * float.fromhex("0x1.71547652b82fep+5") + float.fromhex("0x1.8p+52")
        k = (t.view(np.int64) & 0xFFFFFFFF).astype(np.uint32).view(np.int32).astype(np.int64)
        kd = t - float.fromhex("0x1.8p+52")
        r = (d - kd * float.fromhex("0x1.62e42fefa4p-6")) - kd * float.fromhex("-0x1.8432a1b0e2634p-48")
        q = 0.5 + r * (1/6 + r * (1/24 + r * (1/120 + r * (1/720 + r * (1/5040)))))
        p = r + (r * r) * q
        j = k & 31
        th, tl = EXP2_32[j, 0], EXP2_32[j, 1]
        y = tl + th * p
        hi = th + y
        h = _odd(hi, y - (hi - th))
        out = (h.view(np.int64) + ((k - j) // 32 << 52)).view(np.float64).astype(np.float32)
    out[x > np.float32(float.fromhex("0x1.62e42ep+6"))] = np.inf
    out[x < np.float32(float.fromhex("-0x1.9fe368p+6"))] = 0
    out.view(np.uint32)[x != x] = 0x7FC00000
    return out.reshape(shape)

def log1pf(x):
    x = np.asarray(x, np.float32); shape = x.shape; x = x.reshape(-1)
    with np.errstate(all="ignore"):
        ok = (x > -1) & (x < np.inf)
        d = np.where(ok, x, np.float32(0)).astype(np.float64)
        q = -0.5 + d * (1/3 + d * (-1/4 + d * (1/5 + d * (-1/6 + d * (1/7 + d * (-1/8 + d * (1/9 + d * (-1/10))))))))
        y = (d * d) * q
        hi = d + y
        small = _odd(hi, y - (hi - d))
        u = 1.0 + d
        c = np.where(d >= 1.0, 1.0 - (u - d), 0.0)
        b = u.view(np.int64)
        e = ((b >> 52) - 1023).astype(np.float64)
        m = (b & 0xFFFFFFFFFFFFF | 0x3FF0000000000000).view(np.float64)
        j = b >> 46 & 63
        bb = 1.0 + (2 * j + 1) / 128.0
        z = (m - bb) / bb
        q = -0.5 + z * (1/3 + z * (-1/4 + z * (1/5 + z * (-1/6 + z * (1/7 + z * (-1/8))))))
        p = z + (z * z) * q
        s = e * float.fromhex("0x1.62e42fefa38p-1") + LOG_C[j, 0]
        y = ((e * float.fromhex("0x1.ef35793c7673p-45") + LOG_C[j, 1]) + c / u) + p
        hi = s + y
        v = hi - s
        large = _odd(hi, (s - (hi - v)) + (y - v))
        out = np.where((d > -2.0**-6) & (d < 2.0**-6), small, large).astype(np.float32)
    out[x == 0] = x[x == 0]
    out[x == np.inf] = np.inf
    out[x == -1] = -np.inf
    out.view(np.uint32)[(x != x) | (x < -1)] = 0x7FC00000
    return out.reshape(shape)


# ---- sums ----

def round_integer(n, exponent):
    """n * 2^exponent, n an integer of any length, rounded once to binary32."""
    drop = max(abs(n).bit_length() - 60, 0)
    kept = abs(n) >> drop
    if drop and abs(n) & (1 << drop) - 1:
        kept |= 1
    # 60 bits: fold what binary64 cannot hold into its last bit, so that only the last conversion rounds.
    low = kept.bit_length() - 53
    if low > 0 and kept & (1 << low) - 1:
        kept = (kept >> low | 1) << low
    return f32(math.copysign(math.ldexp(float(kept >> max(low, 0)), exponent + drop + max(low, 0)), n))


def exact_dot(a, b):
    """Every row of a [M,k] with every row of b [N,k], each the exact sum rounded once; the values are those of FP8 and FP4."""
    fine = max(np.abs(a).max(initial=0), np.abs(b).max(initial=0)) <= 448
    if fine:
        # Multiples of 2^-18 below 2^53 of them: binary64 is exact in any order.
        return (a.astype(f64) @ b.astype(f64).T + 0.0).astype(f32)
    ia, ib = [[[int(v * 65536) for v in row] for row in m.astype(f64)] for m in (a, b)]
    out = np.zeros((len(ia), len(ib)), f32)
    for i, row in enumerate(ia):
        for j, col in enumerate(ib):
            out[i, j] = round_integer(sum(x * y for x, y in zip(row, col)), -32)
    return out


def sequential_dot(a, b):
    acc = np.zeros((len(a), len(b)), f32)
    for k in range(a.shape[1]):
        acc = acc + a[:, k, None] * b[None, :, k]
    return acc


def cut(n, shift, rne):
    """The integer n as a multiple of 2^shift."""
    if shift <= 0:
        return n
    q, rest = abs(n) >> shift, abs(n) & (1 << shift) - 1
    if rne and (rest > 1 << (shift - 1) or rest == 1 << (shift - 1) and q & 1):
        q += 1
    return (-q if n < 0 else q) << shift


def hardware_dot(a, b, mma_k, fraction_bits, rne, promote_every):
    """A matrix unit: accumulator and products aligned to the largest exponent and cut; values in units of 2^-32."""
    ia, ib = [[[int(v * 65536) for v in row] for row in m.astype(f64)] for m in (a, b)]
    out = np.zeros((len(ia), len(ib)), f32)
    depth = a.shape[1]
    run = promote_every or max(depth, 1)
    for i, row in enumerate(ia):
        for j, col in enumerate(ib):
            total = f32(0)
            for first in range(0, depth, run):
                acc, end = 0, min(first + run, depth)
                for step in range(first, end, mma_k):
                    stop = min(step + mma_k, end)
                    terms = [acc] + [x * y for x, y in zip(row[step:stop], col[step:stop])]
                    shift = max(abs(t).bit_length() for t in terms) - 1 - fraction_bits
                    acc = sum(cut(t, shift, rne) for t in terms)
                    acc = cut(acc, abs(acc).bit_length() - 1 - fraction_bits, rne)
                total = f32(total + round_integer(acc, -32))
            out[i, j] = total
    return out


def fused(a, b, c):
    """a * b + c with one rounding: the product is exact in binary64, the error of its sum goes into the last bit."""
    p, c = a.astype(f64) * b.astype(f64), np.broadcast_to(c.astype(f64), np.broadcast(a, b, c).shape)
    s = p + c
    v = s - p
    error = (p - (s - v)) + (c - v)
    error = np.where(np.isfinite(s), error, 0.0)
    return _odd(np.ascontiguousarray(s), error).astype(f32)


def exact_sum(x):
    """The exact sum of binary64 numbers, rounded once to binary32."""
    s = math.fsum(x)
    if not math.isfinite(s):
        return f32(s)
    rest = math.fsum(list(x) + [-s])
    return _odd(np.array([s]), np.array([rest]))[0].astype(f32)


# ---- products ----

class Call:
    """One case: arrays by argument, parameters, formats and shapes of the outputs."""

    def __init__(self, inputs, params, outputs):
        self.inputs, self.params, self.outputs = inputs, params, outputs

    def has(self, name):
        return name in self.inputs

    def dtype(self, name):
        return self.inputs[name][1]

    def raw(self, name):
        return self.inputs[name][0]

    def x(self, name):
        return decode(*self.inputs[name])

    def f(self, name):
        return self.x(name).astype(f32)

    def param(self, name, default):
        return self.params.get(name, default)

    def out(self, name, values):
        return encode(values, self.outputs[name]["dtype"])


def order_of(c, default):
    order = c.param("order", default)
    if order not in ("d*(sa*sb)", "(d*sa)*sb", "acc*(sx*sw)", "(acc*sx)*sw"):
        raise Refused(f"order {order}")
    return "*(s" in order


def factors(c, joint, d, sa, sb):
    return (d, sa * sb) if joint else (d * sa, sb)


def dot(c, a, b):
    mode = c.param("mode", "R0")
    if mode == "R0":
        return exact_dot(a, b)
    if mode == "R1":
        return sequential_dot(a, b)
    if mode == "R2":
        return hardware_dot(a, b, c.param("mma_k", 32), c.param("fraction_bits", 13),
                            c.param("rounding", "truncate") == "rne", c.param("promote_every", 128))
    raise Refused(f"mode {mode}")


def scaled_product(c, a, b, block, sa, sb, order):
    """acc = acc + d * sa * sb per block of K; sa and sb give the column of scales of the block that starts at k."""
    joint = order_of(c, order)
    acc = np.zeros((len(a), len(b)), f32)
    for k in range(0, a.shape[1], block):
        d = dot(c, a[:, k:k + block], b[:, k:k + block])
        left, right = factors(c, joint, d, sa(k)[:, None], sb(k)[None, :])
        acc = fused(left, right, acc) if c.param("fma", False) else acc + left * right
    return acc


def columns(scales, block):
    return lambda k: scales[:, k // block]


def fp8_block(c, a, sa, b, sb):
    return scaled_product(c, a, b, 128, columns(sa, 128),
                          lambda k: np.repeat(sb[:, k // 128], 128)[: len(b)], "d*(sa*sb)")


def gemm_fp8_block(c):
    return {"C": c.out("C", fp8_block(c, c.f("A"), c.f("sa"), c.f("B"), c.f("sb")))}


def gemm_fp8_token_channel(c):
    a, b = c.f("A"), c.f("B")
    acc = np.zeros((len(a), len(b)), f32)
    if a.shape[1]:
        joint = order_of(c, "(d*sa)*sb")
        left, right = factors(c, joint, dot(c, a, b), c.f("sa").reshape(-1, 1), c.f("sb").reshape(1, -1))
        acc = left * right
    if c.has("bias"):
        acc = acc + c.f("bias")
    return {"C": c.out("C", acc)}


def w8a8(c, a, sx, b, sw, bias=0):
    # Below 2^53: exact in binary64, rounded once.
    acc = (a.astype(f64) @ b.astype(f64).T + bias).astype(f32)
    left, right = factors(c, order_of(c, "(acc*sx)*sw"), acc, sx.reshape(-1, 1), sw.reshape(1, -1))
    return left * right


def gemm_w8a8(c):
    bias = c.x("bias").astype(f64) if c.has("bias") else 0
    return {"C": c.out("C", w8a8(c, c.x("A"), c.f("sx"), c.x("B"), c.f("sw"), bias))}


def int4(codes, dtype, z, group):
    q = decode(codes, dtype)
    if z is not None:
        return q - np.repeat(z.astype(f32), group, axis=1)
    return q - f32(8) if dtype == "U4" else q


def groups(scales, k):
    return k // scales.shape[1] if scales.shape[1] else 1


def gemm_w4a16_group(c):
    a, s = c.f("A"), c.f("s")
    group = groups(s, a.shape[1])
    w = int4(c.raw("B"), c.dtype("B"), c.raw("z") if c.has("z") else None, group) * np.repeat(s, group, axis=1)
    if c.param("dequant", "bf16") == "bf16":
        w = bf16(w)
    return {"C": c.out("C", sequential_dot(a, w))}


def gemm_w4a8_group(c):
    a, sg = c.x("A").astype(f64), c.f("sg")
    group = groups(sg, a.shape[1])
    q = decode(c.raw("B"), c.dtype("B")).astype(f64)
    acc = np.zeros((len(a), len(q)), f32)
    for i in range(sg.shape[1]):
        k = slice(i * group, (i + 1) * group)
        acc = acc + (a[:, k] @ q[:, k].T).astype(f32) * sg[None, :, i]
    if c.has("sc"):
        acc = acc * c.f("sc")[None, :]
    acc = acc * c.f("sx").reshape(-1, 1)
    if c.has("bias"):
        acc = acc + c.f("bias")
    return {"C": c.out("C", acc)}


def gemm_mxfp8(c):
    acc = scaled_product(c, c.f("A"), c.f("B"), 32, columns(c.f("sa"), 32), columns(c.f("sb"), 32), "d*(sa*sb)")
    return {"C": c.out("C", acc)}


def mxfp4(c, a, sa, b, sb):
    k = a.shape[1]
    block = 32 if sa.shape[1] == -(-k // 32) else 128
    return scaled_product(c, a, b, 32, columns(sa, block), columns(sb, 32), "(d*sa)*sb")


def gemm_mxfp4(c):
    return {"C": c.out("C", mxfp4(c, c.f("A"), c.f("sa"), c.f("B"), c.f("sb")))}


def gemm_nvfp4(c):
    a, b = c.f("A"), c.f("B")
    acc = scaled_product(c, a, b, 16, columns(c.f("sa"), 16), columns(c.f("sb"), 16), "d*(sa*sb)")
    if a.shape[1]:
        acc = acc * (c.f("ga")[0] * c.f("gb")[0])
    return {"C": c.out("C", acc)}


def moe_grouped_gemm(c):
    base = c.param("base", "fp8_block")
    a, sa, b, sb, offsets = c.x("A"), c.f("sa"), c.x("B"), c.f("sb"), c.x("offsets")
    out = np.zeros((len(a), b.shape[1]), f32)
    for e in range(len(b)):
        rows = slice(int(offsets[e]), int(offsets[e + 1]))
        product = {"fp8_block": fp8_block, "w8a8": w8a8, "fp8_mxfp4": mxfp4}[base]
        out[rows] = product(c, a[rows], sa[rows], b[e], sb[e])
    return {"C": c.out("C", out)}


def lm_head(c):
    h, b = c.f("H").astype(f64), c.f("B").astype(f64)
    acc = np.zeros((len(h), len(b)), f64)
    for k in range(h.shape[1]):
        acc = acc + h[:, k, None] * b[None, :, k]
    return {"C": c.out("C", acc.astype(f32))}


# ---- dequantizers ----

def dequant_table(c):
    return {"y": encode(c.f("codes"), c.outputs["y"]["dtype"], keep_sign=True)}


def sides(block, shape):
    return [block[i] or max(shape[i], 1) for i in (0, 1)]


def spread(grid, block, shape):
    """A grid of scales as one per element."""
    rows, cols = sides(block, shape)
    grid = grid.reshape(-(-shape[0] // rows), -(-shape[1] // cols))
    return np.repeat(np.repeat(grid, rows, axis=0)[: shape[0]], cols, axis=1)[:, : shape[1]]


def dequant_scaled(default):
    def run(c):
        q = c.f("codes")
        block = c.param("block", default)
        if c.has("z"):
            q = q - spread(c.f("z"), block, q.shape)
        y = q * spread(c.f("scale"), block, q.shape)
        if c.has("g"):
            y = y * c.f("g")[0]
        return {"y": c.out("y", y)}
    return run


def dequant_int4_group(c):
    s = c.f("scale")
    group = groups(s, 2 * c.raw("codes").shape[1])
    y = int4(c.raw("codes"), c.dtype("codes"), c.raw("z") if c.has("z") else None, group) * np.repeat(s, group, axis=1)
    if c.has("g"):
        y = y * c.f("g")[0]
    return {"y": c.out("y", y)}


# ---- quantizers ----

def power_of_two_above(t):
    """The smallest power of two that is not below t, by its bits; exponent field 1..254."""
    bits = np.ascontiguousarray(t, f32).view(u32)
    exponent = (bits >> u32(23)) + (bits & u32(0x7FFFFF) != 0)
    return (np.clip(exponent, 1, 254).astype(u32) << u32(23)).view(f32)


TOP, FLOOR = f32(448), f32(1e-4)


def clamped(x, top):
    return np.clip(x, f32(-top), f32(top))


def ds_fp8_f32_mul(amax):
    s = np.maximum(amax, FLOOR) * (f32(1) / TOP)
    return s, lambda x, s, amax: e4m3_codes(clamped(x / s, 448))


def ds_fp8_ue8m0(amax):
    s = power_of_two_above(np.maximum(amax, FLOOR) * (f32(1) / TOP))
    return s, lambda x, s, amax: e4m3_codes(clamped(x / s, 448))


def dg_fp8_f32(amax):
    return np.maximum(amax, FLOOR) / TOP, lambda x, s, amax: e4m3_codes(x * (f32(1) / s))


def dg_fp8_ue8m0(amax):
    s = power_of_two_above(np.maximum(amax, FLOOR) / TOP)
    return s, lambda x, s, amax: e4m3_codes(x * (f32(1) / s))


def tk_fp8_f32(amax):
    s = np.maximum(amax, FLOOR) / TOP
    return s, lambda x, s, amax: e4m3_codes(clamped(x * (TOP / np.maximum(amax, FLOOR)), 448))


def vllm_fp8_group(amax):
    return np.maximum(amax, f32(1e-10)) / TOP, lambda x, s, amax: e4m3_codes(clamped(x / s, 448))


def vllm_token_scale(amax):
    return np.maximum(amax / TOP, f32(1) / (TOP * f32(512)))


def vllm_fp8_token(amax):
    return vllm_token_scale(amax), lambda x, s, amax: e4m3_codes(clamped(x * (f32(1) / s), 448))


def vllm_fp8_token_div(amax):
    return vllm_token_scale(amax), lambda x, s, amax: e4m3_codes(clamped(x / s, 448))


def mx_fp4_ds(amax):
    s = power_of_two_above(np.maximum(amax, f32(6 * 2.0 ** -126)) * (f32(1) / f32(6)))
    return s, lambda x, s, amax: e2m1_codes(clamped(x / s, 6))


def mx_fp4_dg(amax):
    def code(x, s, amax):
        y = x * (f32(1) / s)
        magnitude = nearest(y, "F4", ties="down")
        return np.where(magnitude == 0, u8(0), magnitude | (np.signbit(y).astype(u8) << u8(3)))
    return power_of_two_above(np.maximum(amax, FLOOR) / f32(6)), code


def int8_token(amax):
    s = np.maximum(amax, FLOOR) / f32(127)
    return s, lambda x, s, amax: np.clip(np.rint(x / s), -128, 127).astype(np.int8)


RECIPES = {r.__name__: (r, block) for r, block in [
    (ds_fp8_f32_mul, [1, 128]), (ds_fp8_ue8m0, [1, 128]), (dg_fp8_f32, [1, 128]), (dg_fp8_ue8m0, [1, 128]),
    (tk_fp8_f32, [1, 128]), (vllm_fp8_group, [1, 128]), (vllm_fp8_token, [1, 0]), (vllm_fp8_token_div, [1, 0]),
    (mx_fp4_ds, [1, 32]), (mx_fp4_dg, [1, 32]), (int8_token, [1, 0])]}


def block_amax(x, block):
    """The largest magnitude of every block; ragged blocks see their own elements only."""
    (rows, cols), (m, k) = sides(block, x.shape), x.shape
    grid = -(-m // rows), -(-k // cols)
    padded = np.zeros((grid[0] * rows, grid[1] * cols), f32)
    padded[:m, :k] = np.abs(x)
    return padded.reshape(grid[0], rows, grid[1], cols).max(axis=(1, 3), initial=0)


def store_scale(s, dtype):
    """Scales as binary32, or powers of two by their exponent field."""
    return (s.view(u32) >> u32(23)).astype(u8) if dtype == "F8_E8M0" else s


def quantized(c, recipe, x, block=None, names=("codes", "scale")):
    rule, default = RECIPES[recipe]
    block = block or default
    amax = block_amax(x, block)
    s, code = rule(amax)
    codes = code(x, spread(s, block, x.shape), spread(amax, block, x.shape))
    return {names[0]: pack(codes) if recipe.startswith("mx_fp4") else codes,
            names[1]: store_scale(s, c.outputs[names[1]]["dtype"])}


def quant(recipe):
    return lambda c: quantized(c, recipe, c.f("x"), c.param("block", None))


def quant_nvfp4(c):
    x = c.f("x")
    g = c.f("g")[0] if c.has("g") else np.abs(x).max(initial=0) / f32(6 * 448)
    g = g if g > 0 else f32(1)
    t = block_amax(x, [1, 16]) / (f32(6) * g)
    t = np.clip(np.where(t == 0, f32(1), t), f32(2.0 ** -9), TOP)
    scale = e4m3_codes(t)
    y = x / (spread(TABLES["F8_E4M3"][scale], [1, 16], x.shape) * g)
    codes = nearest(y, "F4") | ((y < 0).astype(u8) << u8(3))
    out = {"codes": pack(codes), "scale": scale}
    if "g" in c.outputs:
        out["g"] = np.array([g], f32)
    return out


def requant_e4m3_f32_to_ue8m0(c):
    block = c.param("block", [128, 128])
    w = c.f("codes") * spread(c.f("scale"), block, c.raw("codes").shape)
    return quantized(c, "dg_fp8_ue8m0", w, block, ("codes_out", "scale_out"))


def requant_e4m3_to_s8(c):
    w = c.f("codes") * spread(c.f("scale"), c.param("block", [128, 128]), c.raw("codes").shape)
    s = np.maximum(np.abs(w).max(axis=1, initial=0) / f32(127), f32(2.0 ** -23))
    shape = c.outputs["scale_out"]["shape"]
    return {"codes_out": np.rint(w / s[:, None]).astype(np.int8), "scale_out": s.reshape(shape)}


def requant_bf16_to_e4m3(c):
    return {"codes": e4m3_codes(clamped(c.f("x"), 448))}


def fnuz(to_fn, factor):
    def run(c):
        codes = np.arange(256, dtype=u8)
        if to_fn:
            codes[0x80], codes[0x7F], codes[0xFF] = 0x7F, 0x7E, 0xFE
        else:
            codes[0x80], codes[0x7F], codes[0xFF] = 0x00, 0x80, 0x80
        out = {"codes_out": codes[c.raw("codes")]}
        if "scale_out" in c.outputs:
            out["scale_out"] = c.f("scale") * f32(factor)
        return out
    return run


# ---- norms, activations, rotary embedding ----

def norm_values(c):
    x = c.f("x")
    if c.has("residual"):
        x = bf16(x + c.f("residual"))
    square_sum = np.zeros(len(x), f64)
    for k in range(x.shape[1]):
        square_sum = square_sum + x[:, k].astype(f64) * x[:, k].astype(f64)
    r = (1.0 / np.sqrt(square_sum / f64(max(x.shape[1], 1)) + f64(c.param("eps", 1e-6)))).astype(f32)
    y = x * r[:, None]
    if c.param("bf16_x", False):
        y = bf16(y)
    return x, bf16_codes(y * c.f("w"))


def rmsnorm(default):
    def run(c):
        h, y = norm_values(c)
        out = {"y": y} if default is None else quantized(c, c.param("recipe", default), decode(y, "BF16"))
        if "residual_out" in c.outputs:
            out["residual_out"] = bf16_codes(h)
        return out
    return run


def swiglu_values(c):
    x = c.f("x")
    half = x.shape[-1] // 2
    g, u = x[:, :half], x[:, half:]
    limit = f32(c.param("limit", 0))
    if limit > 0:
        g, u = np.minimum(g, limit), np.clip(u, -limit, limit)
    y = g / (f32(1) + expf(-g)) * u
    if c.has("topk_weight"):
        y = y * c.f("topk_weight").reshape(-1, 1)
    return bf16_codes(y)


def swiglu(c):
    return {"y": swiglu_values(c)}


def swiglu_quant(c):
    default = "int8_token" if c.outputs["codes"]["dtype"] == "I8" else "dg_fp8_f32"
    return quantized(c, c.param("recipe", default), decode(swiglu_values(c), "BF16"), c.param("block", None))


def rope(style):
    def run(c):
        x, cos, sin = c.f("x"), c.f("cos"), c.f("sin")
        half = x.shape[-1] // 2
        if x.ndim == 3:
            cos, sin = cos[:, None, :], sin[:, None, :]
        interleaved = (style or c.param("style", "half")) == "interleaved"
        x0, x1 = (x[..., 0::2], x[..., 1::2]) if interleaved else (x[..., :half], x[..., half:])
        y0, y1 = x0 * cos - x1 * sin, x1 * cos + x0 * sin
        y = np.stack([y0, y1], axis=-1).reshape(x.shape) if interleaved else np.concatenate([y0, y1], axis=-1)
        return {"y": c.out("y", y)}
    return run


# ---- attention ----

def mla(absorbed):
    def run(c):
        q, qp, kv, kp, uk, uv = (c.f(n).astype(f64) for n in ("q_nope", "q_pe", "kv_c", "k_pe", "W_UK", "W_UV"))
        (t, heads, _), s = q.shape, len(kv)
        y = np.zeros((t, heads, uv.shape[1]), f64)
        for h in range(heads):
            if absorbed:
                logits = (q[:, h] @ uk[h]) @ kv.T
            else:
                logits = q[:, h] @ (kv @ uk[h].T).T
            logits = (logits + qp[:, h] @ kp.T) * c.param("scale", 1.0)
            if c.param("causal", True):
                logits = np.where(np.arange(s)[None, :] <= np.arange(t)[:, None] + (s - t), logits, -np.inf)
            p = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))
            den = p.sum(axis=1, keepdims=True)
            if c.param("cast_p", False):
                p = bf16(p.astype(f32)).astype(f64)
            y[:, h] = (p @ kv) @ uv[h].T / den if absorbed else p @ (kv @ uv[h].T) / den
        return {"y": y.astype(f32) if c.outputs["y"]["dtype"] == "F32" else y}
    return run


def sparse_attn_sink(c):
    q, kv, idx, sink = c.f("q").astype(f64), c.f("kv").astype(f64), c.x("idx"), c.f("sink")
    scale, cast = f32(c.param("scale", 1.0)), c.param("cast_p", "bf16") == "bf16"
    y = np.zeros(q.shape, f32)
    for t in range(len(q)):
        chosen = [int(i) for i in idx[t] if i >= 0]
        if not chosen:
            continue
        for h in range(q.shape[1]):
            logits = np.array([exact_sum(q[t, h] * kv[i]) for i in chosen], f32) * scale
            top = logits.max()
            p, den = expf(logits - top), f32(0)
            for one in p:
                den = den + one
            den = den + expf(np.array([sink[h] - top], f32))[0]
            weights = (bf16(p) if cast else p).astype(f64)
            for d in range(q.shape[2]):
                y[t, h, d] = exact_products(weights, [kv[i, d] for i in chosen]) / den
    return {"y": c.out("y", y)}


def exact_products(weights, values):
    """The exact sum of products of binary32 weights and BF16 values: each product is exact in binary64."""
    return exact_sum([w * v for w, v in zip(weights, values)])


def indexer_logits(c):
    q, k, w, ks = c.f("q"), c.f("k"), c.f("weights"), c.f("ks")
    acc = np.zeros((len(q), len(k)), f32)
    for h in range(q.shape[1]):
        acc = acc + np.maximum(exact_dot(q[:, h], k), f32(0)) * w[:, h, None]
    return {"y": c.out("y", acc * ks[None, :])}


# ---- routing ----

def moe_gate(c):
    x, scoring, topk = c.f("logits"), c.param("scoring", "sigmoid"), c.param("topk", 1)
    with np.errstate(all="ignore"):
        if scoring == "sigmoid":
            scores = f32(1) / (f32(1) + expf(-x))
        elif scoring == "sqrtsoftplus":
            scores = np.sqrt(np.where(x > 20, x, log1pf(expf(x))))
        elif scoring == "softmax":
            e, total = expf(x - x.max(axis=1, keepdims=True, initial=-np.inf)), np.zeros(len(x), f32)
            for k in range(x.shape[1]):
                total = total + e[:, k]
            scores = e / total[:, None]
        else:
            raise Refused(f"scoring {scoring}")
    rank = x if scoring == "softmax" else scores
    if c.has("bias"):
        rank = rank + c.f("bias")
    groups, keep = c.param("groups", 1), c.param("topk_group", 1)
    rank = np.array(rank, f32)
    if groups > 1:
        for row in rank:
            parts = row.reshape(groups, -1)
            best = [sorted(map(f32, part), reverse=True) for part in parts]
            score = [f32(b[0] + b[1]) if len(b) > 1 else b[0] for b in best]
            kept = sorted(range(groups), key=lambda i: (-score[i], i))[:keep]
            for g in range(groups):
                if g not in kept:
                    parts[g] = -np.inf
    idx = np.zeros((len(x), topk), np.int32)
    weights = np.zeros((len(x), topk), f32)
    scale = f32(c.param("scale", 1.0))
    for t, row in enumerate(rank):
        chosen = sorted(range(len(row)), key=lambda i: (-row[i], i))[:topk]
        idx[t] = chosen
        w = scores[t][chosen]
        if c.param("renormalize", True):
            total = f32(0)
            for one in w:
                total = total + one
            w = w / np.maximum(total, f32(1e-20))
        weights[t] = w * scale
    return {"idx": idx, "weights": c.out("weights", weights)}


def moe_combine(c):
    x, row, w = c.f("x"), c.x("row"), c.f("weights")
    acc = np.zeros((len(row), x.shape[1]), f32)
    for k in range(row.shape[1]):
        acc = acc + x[row[:, k]] * w[:, k, None]
    return {"y": c.out("y", acc)}


# ---- caches ----

def cache_codes(x, tile):
    """E4M3 codes and power-of-two scales of tiles of the last axis."""
    tiles = x.reshape(*x.shape[:-1], x.shape[-1] // tile, tile)
    s = power_of_two_above(np.maximum(np.abs(tiles).max(axis=-1, initial=0) / TOP, FLOOR))
    return e4m3_codes(tiles / s[..., None]).reshape(x.shape), s


def kv_quant_v32(c):
    x = c.f("x")
    codes, s = cache_codes(x[:, :512], 128)
    rest = np.ascontiguousarray(c.raw("x")[:, 512:])
    return {"y": np.concatenate([codes, s.view(u8).reshape(len(x), 16), rest.view(u8).reshape(len(x), 128)], axis=1)}


def kv_quant_model1(c):
    x = c.f("x")
    blocks, tokens, _ = x.shape
    codes, s = cache_codes(x[..., :448], 64)
    rest = np.ascontiguousarray(c.raw("x")[..., 448:]).view(u8).reshape(blocks, tokens, 128)
    y = np.zeros((blocks, -(-tokens * 584 // 576) * 576), u8)
    y[:, : tokens * 576] = np.concatenate([codes, rest], axis=2).reshape(blocks, tokens * 576)
    tail = np.zeros((blocks, tokens, 8), u8)
    tail[..., :7] = s.view(u32) >> u32(23)
    y[:, tokens * 576: tokens * 584] = tail.reshape(blocks, tokens * 8)
    return {"y": y}


def kv_quant_int8(c):
    x = c.f("x")
    per_head = c.param("axis", "head") == "head"
    if c.has("scale"):
        s = c.f("scale")
    else:
        s = np.maximum(np.abs(x).max(axis=(0, 2) if per_head else 0, initial=0), FLOOR) / f32(127)
    spread_scale = s[None, :, None] if s.ndim == 1 else s[None]
    out = {"codes": np.clip(np.rint(x / spread_scale), -127, 127).astype(np.int8)}
    if "scale_out" in c.outputs:
        out["scale_out"] = s
    return out


# ---- layouts ----

def layout_ue8m0_pack(c):
    x = c.raw("x")
    padded = np.zeros((x.shape[0], -(-x.shape[1] // 4) * 4), u8)
    padded[:, : x.shape[1]] = x
    return {"y": padded.view("<i4")}


def layout_ue8m0_unpack(c):
    return {"y": np.ascontiguousarray(c.raw("x")).view(u8)[:, : c.outputs["y"]["shape"][-1]]}


def layout_ue8m0_tma(c):
    x = c.raw("x")
    y = np.zeros((x.shape[1], -(-x.shape[0] // 4) * 4), np.int32)
    y[:, : x.shape[0]] = x.T
    return {"y": y}


def layout_nz(c):
    x = c.raw("x")
    n0 = 32 // x.dtype.itemsize
    rows, cols = -(-x.shape[0] // 16), -(-x.shape[1] // n0)
    padded = np.zeros((rows * 16, cols * n0), x.dtype)
    padded[: x.shape[0], : x.shape[1]] = x
    return {"y": padded.reshape(rows, 16, cols, n0).transpose(2, 0, 1, 3)}


def layout_nz_inverse(c):
    x = c.raw("x")
    cols, rows, _, n0 = x.shape
    m, n = c.outputs["y"]["shape"]
    return {"y": x.transpose(1, 2, 0, 3).reshape(rows * 16, cols * n0)[:m, :n]}


def layout_interleave(c):
    x = c.raw("x")
    half = len(x) // 2
    return {"y": np.stack([x[:half], x[half:]], axis=1).reshape(x.shape)}


def layout_deinterleave(c):
    x = c.raw("x")
    return {"y": np.concatenate([x[0::2], x[1::2]])}


def layout_nibble_swap(c):
    return {"y": c.raw("x") >> 4 | c.raw("x") << 4}


def layout_pack_i32(c):
    x = c.raw("x")
    order = [0, 2, 4, 6, 1, 3, 5, 7] if c.param("order", "ct") == "awq" else list(range(8))
    nibbles = x.reshape(len(x), x.shape[1] // 8, 8)[..., order].astype(u32)
    words = np.zeros(nibbles.shape[:2], u32)
    for i in range(8):
        words |= nibbles[..., i] << u32(4 * i)
    return {"y": words.view(np.int32)}


def layout_pack_nibbles(c):
    return {"y": pack(c.raw("x"))}


KERNELS = {
    "gemm_fp8_mxfp4": gemm_mxfp4,
    "dequant_fp8_block": dequant_scaled([128, 128]), "dequant_fp8_channel": dequant_scaled([1, 0]),
    "dequant_int8_channel": dequant_scaled([1, 0]), "dequant_int8_block": dequant_scaled([128, 128]),
    "dequant_mxfp8": dequant_scaled([1, 32]), "dequant_mxfp4": dequant_scaled([1, 32]),
    "dequant_nvfp4": dequant_scaled([1, 16]),
    "requant_e4m3fn_to_e4m3fnuz": fnuz(False, 2), "requant_e4m3fnuz_to_e4m3fn": fnuz(True, 0.5),
    "rmsnorm": rmsnorm(None), "add_rmsnorm": rmsnorm(None),
    "rmsnorm_quant_fp8": rmsnorm("dg_fp8_f32"), "add_rmsnorm_quant_fp8": rmsnorm("dg_fp8_f32"),
    "rmsnorm_quant_s8": rmsnorm("int8_token"), "add_rmsnorm_quant_s8": rmsnorm("int8_token"),
    "rope": rope(None), "rope_interleaved": rope("interleaved"), "rope_half": rope("half"),
    "rope_half_split": rope("half"), "mla_plain": mla(False), "mla_absorbed": mla(True),
}
for _name in ("e4m3", "e5m2", "e4m3fnuz", "e2m1", "e8m0", "bf16"):
    KERNELS["dequant_" + _name] = dequant_table
for _name in RECIPES:
    KERNELS["quant_" + _name] = quant(_name)
for _kernel in (
    gemm_fp8_block, gemm_fp8_token_channel, gemm_w8a8, gemm_w4a16_group, gemm_w4a8_group, gemm_mxfp8, gemm_mxfp4,
    gemm_nvfp4, dequant_int4_group, quant_nvfp4, requant_e4m3_f32_to_ue8m0, requant_e4m3_to_s8, requant_bf16_to_e4m3,
    swiglu, swiglu_quant, sparse_attn_sink, indexer_logits, moe_gate, moe_grouped_gemm, moe_combine, lm_head,
    kv_quant_v32, kv_quant_model1, kv_quant_int8, layout_ue8m0_pack, layout_ue8m0_unpack, layout_ue8m0_tma, layout_nz,
    layout_nz_inverse, layout_interleave, layout_deinterleave, layout_nibble_swap, layout_pack_i32, layout_pack_nibbles,
):
    KERNELS[_kernel.__name__] = _kernel


# ---- golden sets ----

def load(folder, entry):
    array = np.load(os.path.join(folder, entry["file"]), allow_pickle=False)
    stored = np.dtype(STORED.get(entry["dtype"], "|u1"))
    if array.dtype != stored or list(array.shape) != entry["shape"]:
        raise Refused(f"{entry['file']}: {array.dtype} {list(array.shape)} is not {stored} {entry['shape']}")
    return array


def bits(array):
    array = np.ascontiguousarray(array)
    return array.view(f"u{array.dtype.itemsize}").reshape(array.shape)


def place(index, shape):
    return "[" + ",".join(str(int(i)) for i in np.unravel_index(index, shape)) + "]"


def check(case, folder):
    """None, or what is wrong."""
    kernel = KERNELS.get(case["kernel"])
    if kernel is None:
        return "unknown kernel"
    inputs = {name: (load(folder, entry), entry["dtype"]) for name, entry in case["inputs"].items()}
    try:
        with np.errstate(all="ignore"):
            outputs = kernel(Call(inputs, case["params"], case["outputs"]))
    except (ArithmeticError, LookupError, ValueError, TypeError, Refused) as error:
        return f"cannot be computed: {error}"
    for name, entry in case["outputs"].items():
        golden = load(folder, entry)
        actual = np.ascontiguousarray(outputs[name], dtype=golden.dtype)
        if actual.shape != golden.shape:
            return f"{name}: shape {list(actual.shape)} is not {list(golden.shape)}"
        if "tolerance" in entry:
            if golden.size == 0:
                continue
            limit = entry["tolerance"] * np.abs(golden).max()
            wrong = ~(np.abs(actual - golden) <= limit)
        else:
            wrong = bits(actual) != bits(golden)
        if wrong.any():
            first = int(np.flatnonzero(wrong)[0])
            return (f"{name}: {int(wrong.sum())} of {golden.size} differ, first at {place(first, golden.shape)}: "
                    f"{int(bits(actual).flat[first]):#x} is not {int(bits(golden).flat[first]):#x}")
    return None


def run_all(cases, folder):
    if not cases:
        # Success without a single case would prove nothing.
        raise Refused("no such case")
    failed = 0
    for case in cases:
        wrong = check(case, folder)
        name = case["kernel"] + "/" + case["case"]
        print(f"ok {name}" if wrong is None else f"FAIL {name} {wrong}")
        failed += wrong is not None
    print(f"{'FAIL' if failed else 'ok'}: {len(cases) - failed} of {len(cases)} cases equal, {failed} differ")
    return 1 if failed else 0


# ---- metrics ----

UNBOUNDED = float(np.finfo(f64).max)


def ratio(error, magnitude):
    """error / magnitude; 0 for 0 / 0, and never infinite."""
    if error == 0:
        return 0.0
    return min(error / magnitude, UNBOUNDED) if magnitude else UNBOUNDED


def metrics(a, g, threshold):
    """Lines of metrics of actual values against golden ones, in binary64. A NaN beside a NaN and infinities of one sign count
    as zeros; any other non-finite value makes every metric the worst there is."""
    a, g = a.astype(f64).ravel(), g.astype(f64).ravel()
    finite = np.isfinite(a) & np.isfinite(g)
    pair = ~finite & ((np.isnan(a) & np.isnan(g)) | (np.isinf(a) & (a == g)))
    bad, n = int((~finite & ~pair).sum()), len(a)
    a, g = np.where(finite, a, 0.0)[finite | pair], np.where(finite, g, 0.0)[finite | pair]
    error, size = np.abs(a - g), np.abs(g)
    aa, gg, ag = math.fsum(a * a), math.fsum(g * g), math.fsum(a * g)
    errors, squares, magnitudes = math.fsum(error), math.fsum(error * error), math.fsum(size)
    relative, large = error / (size + 1e-7), size > threshold
    above, below = int((a > g).sum()), int((a < g).sum())
    unequal, equal = above + below, n - above - below - bad
    diff3_1 = float((error[large] / size[large]).max(initial=0.0))
    diff3_2 = float(error[~large].max(initial=0.0))
    norms = math.sqrt(aa) * math.sqrt(gg)
    cosine = min(max(ag / norms, -1.0), 1.0) if norms else 0.0
    if aa == gg == ag:
        # Equal, or both zero: the roots above may cost a last place.
        cosine = 1.0
    if bad:
        sqnr = -UNBOUNDED
    elif squares == 0:
        sqnr = math.inf
    else:
        sqnr = 10.0 * math.log10(gg / squares) if gg else -UNBOUNDED
    values = {
        # 1 - 2 sum(ag) / sum(aa + gg) without the cancellation.
        "calc_diff": ratio(squares, aa + gg),
        "rel_diff": ratio(errors, magnitudes),
        "mere": math.fsum(relative) / n if n else 0.0,
        "mare": float(relative.max(initial=0.0)),
        "rmse": math.sqrt(squares / n) if n else 0.0,
        "diff1": ratio(errors, magnitudes),
        "diff2": math.sqrt(ratio(squares, gg)),
        "diff3": max(diff3_1, diff3_2),
        "diff3_1": diff3_1,
        "diff3_2": diff3_2,
        "diff4": None,
        "max_abs": float(error.max(initial=0.0)),
    }
    if bad:
        values = {name: value if value is None else UNBOUNDED for name, value in values.items()}
    values["cosine"] = -1.0 if bad else cosine
    values["sqnr_db"] = sqnr
    values["bias"] = abs((below + 0.5 * equal) / n - 0.5) if n else 0.0
    share = max(unequal, 1)
    diff4 = f"{above / share:.17g} {below / share:.17g} {unequal}"
    lines = [f"{name} {diff4 if value is None else format(value, '.17g')}" for name, value in values.items()]
    return lines + [f"same_specials {'no' if bad else 'yes'}"]


def element(raw, values, index, packed):
    digits = 1 if packed else 2 * raw.dtype.itemsize
    return f"0x{int(bits(raw).flat[index]):0{digits}X} ({float(values.flat[index]):.9g})"


def compare(cases, folder, file, which):
    name, _, output = which.partition(":")
    found = [c for c in cases if c["kernel"] + "/" + c["case"] == name]
    if not found:
        raise Refused(f"{which}: the manifest has no such case")
    outputs = found[0]["outputs"]
    if not output and len(outputs) == 1:
        output = next(iter(outputs))
    if output not in outputs:
        raise Refused(f"{which}: name one of the outputs after a colon: {' '.join(outputs)}")
    entry = outputs[output]
    golden, actual = load(folder, entry), np.load(file, allow_pickle=False)
    if actual.shape != golden.shape:
        raise Refused(f"{file}: its shape is not the one of the golden output")
    dtype = entry["dtype"]
    if actual.dtype.kind in "uiV" and golden.dtype.itemsize == actual.dtype.itemsize <= 2:
        actual = actual.view(golden.dtype)
    reference = decode(golden, dtype)
    if actual.dtype == golden.dtype:
        measured = decode(actual, dtype)
        if dtype in PACKED:
            actual, golden = unpack(actual), unpack(golden)
        wrong = bits(actual) != bits(golden)
        if "tolerance" in entry:
            wrong = ~(np.abs(measured - reference) <= entry["tolerance"] * np.abs(reference).max(initial=0))
    elif actual.dtype.kind == "f" and reference.dtype.kind == "f" and dtype not in PACKED:
        measured = actual
        wide, golden_wide = actual.astype(f64), reference.astype(f64)
        same = (bits(wide) == bits(golden_wide)) | (np.isnan(wide) & np.isnan(golden_wide))
        if "tolerance" in entry:
            same |= np.abs(wide - golden_wide) <= entry["tolerance"] * np.abs(golden_wide).max(initial=0)
        wrong = ~same
    else:
        raise Refused(f"{file}: its .npy type cannot hold this output")
    threshold = 1e-4 if dtype in ("F16", "BF16") else 1e-6
    print("\n".join(metrics(measured, reference, threshold)))
    print(f"elements {wrong.size}\nmismatches {int(wrong.sum())}")
    if not wrong.any():
        return 0
    first = int(np.flatnonzero(wrong)[0])
    print(f"first_mismatch {place(first, wrong.shape)} got "
          f"{element(actual, measured, first, dtype in PACKED)}, want {element(golden, reference, first, dtype in PACKED)}")
    return 1


def main(args):
    file = which = None
    folders = []
    while args:
        arg = args.pop(0)
        if arg in ("-h", "--help"):
            print(__doc__.strip())
            return 0
        if arg in ("--compare", "--case"):
            if not args:
                raise Refused(f"{arg} needs a value")
            value = args.pop(0)
            file, which = (value, which) if arg == "--compare" else (file, value)
        elif arg.startswith("-"):
            raise Refused(f"unknown option {arg}")
        else:
            folders.append(arg)
    if len(folders) > 1 or (file is not None and which is None):
        raise Refused("usage: kernels.py [--case KERNEL[/CASE]] [DIR] | --compare FILE --case KERNEL/CASE[:OUTPUT] [DIR]")
    folder = folders[0] if folders else "."
    with open(os.path.join(folder, "manifest.json"), encoding="utf-8") as manifest:
        cases = json.load(manifest)["cases"]
    if file is not None:
        return compare(cases, folder, file, which)
    return run_all([c for c in cases if which in (None, c["kernel"], c["kernel"] + "/" + c["case"])], folder)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (OSError, ValueError, KeyError, TypeError, IndexError, Refused) as error:
        print(f"kernels.py: {error}", file=sys.stderr)
        sys.exit(2)
