#!/usr/bin/env python3
"""Writes the files in this folder and the seeds in fuzz/corpus: every file in tests/hostile/{safetensors,index,gguf,
quantized_checkpoint} breaks one rule, named by the file; the seeds are those and a few that hold, and files of samples. Needs nothing but Python; run it
from anywhere. The files are committed, so the tests do not need it."""
import json, os, struct

HERE = os.path.dirname(os.path.abspath(__file__))
CORPUS = os.path.join(HERE, '..', '..', 'fuzz', 'corpus')

def put(kind, name, data, good=False):
    target = {'safetensors': 'safetensors_header', 'index': 'safetensors_index'}.get(kind, kind)
    for folder in [os.path.join(CORPUS, target)] + ([] if good else [os.path.join(HERE, kind)]):
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, name), 'wb') as f:
            f.write(data)

# safetensors
def st(header, data=b'', length=None):
    h = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack('<Q', len(h) if length is None else length) + h + data

def t(dtype='F32', shape=(2,), span=(0, 8)):
    return {'dtype': dtype, 'shape': list(shape), 'data_offsets': list(span)}

D8 = bytes(range(8))
put('safetensors', 'good', st({'__metadata__': {'format': 'pt'}, 'a': t(), 'b': t('BF16', (2, 1), (8, 12))}, bytes(12)), True)
put('safetensors', 'good_scalar_and_empty', st({'s': t('F16', (), (0, 2)), 'e': t('F32', (0, 3), (2, 2))}, bytes(2)), True)
put('safetensors', 'empty', b'')
put('safetensors', 'seven_bytes', b'1234567')
put('safetensors', 'header_longer_than_file', st({'a': t()}, D8, 1 << 20))
put('safetensors', 'header_length_overflows', st({'a': t()}, D8, (1 << 64) - 1))
put('safetensors', 'header_length_wraps_to_the_file', st({'a': t()}, D8, (1 << 64) - 8))
put('safetensors', 'no_header', st(b'', D8))
put('safetensors', 'not_json', st(b'this is no json', D8))
put('safetensors', 'not_utf8', st(b'{"\xff\xfe": 1}', D8))
put('safetensors', 'array_for_object', st([1, 2, 3], D8))
put('safetensors', 'deep_nesting', st(b'{"a":' + b'[' * 4000 + b']' * 4000 + b'}', D8))
put('safetensors', 'trailing_junk', st(json.dumps({'a': t()}).encode() + b'x', D8))
put('safetensors', 'null_tensor', st({'a': None}, D8))
put('safetensors', 'missing_offsets', st({'a': {'dtype': 'F32', 'shape': [2]}}, D8))
put('safetensors', 'negative_shape', st({'a': t(shape=(-2,))}, D8))
put('safetensors', 'fractional_shape', st({'a': t(shape=(2.5,))}, D8))
put('safetensors', 'shape_overflows', st({'a': t(shape=(1 << 62, 1 << 62))}, D8))
put('safetensors', 'shape_wraps_to_the_length', st({'a': t(shape=((1 << 62) + 2, 1))}, D8))
put('safetensors', 'shape_beyond_64_bits', st({'a': t(shape=(1 << 70,))}, D8))
put('safetensors', 'unknown_dtype', st({'a': t('F7')}, D8))
put('safetensors', 'dtype_not_text', st({'a': t(7)}, D8))
put('safetensors', 'offsets_reversed', st({'a': t(span=(8, 0))}, D8))
put('safetensors', 'offsets_negative', st({'a': t(span=(-8, 0))}, D8))
put('safetensors', 'offsets_beyond_file', st({'a': t(span=(0, 8))}, D8[:5]))
put('safetensors', 'offsets_huge', st({'a': t(span=((1 << 64) - 8, (1 << 64) - 1))}, D8))
put('safetensors', 'overlap', st({'a': t(), 'b': t(span=(4, 12))}, bytes(12)))
put('safetensors', 'same_bytes_twice', st({'a': t(), 'b': t()}, D8))
put('safetensors', 'hole', st({'a': t(), 'b': t(span=(12, 20))}, bytes(20)))
put('safetensors', 'bytes_left_over', st({'a': t()}, D8 * 2))
put('safetensors', 'length_wrong_for_shape', st({'a': t(shape=(3,))}, D8))
put('safetensors', 'name_twice', st(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}', bytes(2)))
put('safetensors', 'metadata_twice', st(b'{"__metadata__":{},"__metadata__":{},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', bytes(1)))
put('safetensors', 'metadata_not_text', st({'__metadata__': {'n': 1}, 'a': t()}, D8))

# index
put('index', 'good', json.dumps({'metadata': {'total_size': 16}, 'weight_map': {'a': 'model-00001-of-00002.safetensors', 'b': 'model-00002-of-00002.safetensors'}}).encode(), True)
for name, shard in [('parent', '../model.safetensors'), ('absolute', '/etc/model.safetensors'), ('nested', 'sub/model.safetensors'),
                    ('backslash', '..\\model.safetensors'), ('drive', 'C:model.safetensors'), ('dots', '..'), ('nothing', ''),
                    ('zero_byte', 'a\0.safetensors'), ('pickle', 'pytorch_model.bin'), ('shard_missing', 'model-00009-of-00009.safetensors')]:
    put('index', name, json.dumps({'weight_map': {'a': shard}}).encode())
put('index', 'empty', b'')
put('index', 'not_json', b'{"weight_map": {')
put('index', 'not_utf8', b'{"weight_map": {"\xff": "a.safetensors"}}')
put('index', 'no_map', b'{"metadata": {}}')
put('index', 'empty_map', b'{"weight_map": {}}')
put('index', 'map_is_a_list', b'{"weight_map": ["a"]}')
put('index', 'shard_is_a_number', b'{"weight_map": {"a": 1}}')
put('index', 'tensor_twice', b'{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}')
put('index', 'deep_nesting', b'{"weight_map": ' + b'{"a":' * 3000 + b'1' + b'}' * 3001)

# GGUF
def s(text):
    b = text if isinstance(text, bytes) else text.encode()
    return struct.pack('<Q', len(b)) + b

def u32(n): return struct.pack('<I', n)
def u64(n): return struct.pack('<Q', n)
def kv_s(k, v): return s(k) + u32(8) + s(v)
def kv_u(k, v): return s(k) + u32(4) + u32(v)
def kv_f(k, v): return s(k) + u32(6) + struct.pack('<f', v)
def kv_strings(k, v): return s(k) + u32(9) + u32(8) + u64(len(v)) + b''.join(map(s, v))
def kv_ints(k, v): return s(k) + u32(9) + u32(5) + u64(len(v)) + struct.pack(f'<{len(v)}i', *v)
def info(name, dims, kind=0, offset=0): return s(name) + u32(len(dims)) + b''.join(map(u64, dims)) + u32(kind) + u64(offset)

META = [kv_s('general.architecture', 'llama'), kv_u('llama.block_count', 1), kv_u('llama.context_length', 64), kv_u('llama.embedding_length', 8),
        kv_u('llama.feed_forward_length', 8), kv_u('llama.attention.head_count', 2), kv_u('llama.attention.head_count_kv', 1),
        kv_f('llama.attention.layer_norm_rms_epsilon', 1e-5), kv_s('tokenizer.ggml.model', 'gpt2'), kv_s('tokenizer.ggml.pre', 'gpt-2'),
        kv_strings('tokenizer.ggml.tokens', ['a', 'b', 'ab', '<e>']), kv_ints('tokenizer.ggml.token_type', [1, 1, 1, 3]),
        kv_strings('tokenizer.ggml.merges', ['a b']), kv_u('tokenizer.ggml.eos_token_id', 3)]
EMBED = info('token_embd.weight', [8, 4])
QUERY = info('blk.0.attn_q.weight', [8, 8], 0, 128)

def gguf(meta=META, infos=(EMBED, QUERY), data=bytes(128 + 256), version=3, magic=b'GGUF', tensors=None, keys=None, align=32):
    h = magic + u32(version) + u64(len(infos) if tensors is None else tensors) + u64(len(meta) if keys is None else keys)
    h += b''.join(meta) + b''.join(infos)
    return h + bytes(-len(h) % align) + data

def swap(meta, key, new): return [new if m.startswith(s(key)) else m for m in meta]
put('gguf', 'good', gguf(), True)
put('gguf', 'good_version_2', gguf(version=2), True)
put('gguf', 'good_sentencepiece', gguf(swap(swap(META, 'tokenizer.ggml.model', kv_s('tokenizer.ggml.model', 'llama')), 'tokenizer.ggml.merges',
    s('tokenizer.ggml.scores') + u32(9) + u32(6) + u64(4) + struct.pack('<4f', -3, -2, -1, 0))), True)
put('gguf', 'good_split_part', gguf(META + [kv_u('split.no', 0), kv_u('split.count', 2), kv_u('split.tensors.count', 3)]), True)
put('gguf', 'empty', b'')
put('gguf', 'magic_only', b'GGUF')
put('gguf', 'other_magic', gguf(magic=b'GGML'))
put('gguf', 'version_1', gguf(version=1))
put('gguf', 'version_99', gguf(version=99))
put('gguf', 'big_endian', gguf(version=3 << 24))
put('gguf', 'tensors_2_to_63', gguf(tensors=1 << 63))
put('gguf', 'keys_2_to_63', gguf(keys=1 << 63))
put('gguf', 'keys_more_than_there_are', gguf(keys=len(META) + 3))
put('gguf', 'tensors_more_than_there_are', gguf(tensors=9))
put('gguf', 'key_length_2_to_63', gguf([u64(1 << 63) + b'x'], ()))
put('gguf', 'text_length_2_to_62', gguf([s('general.architecture') + u32(8) + u64(1 << 62)], ()))
put('gguf', 'array_length_2_to_62', gguf([s('a') + u32(9) + u32(5) + u64(1 << 62)], ()))
put('gguf', 'array_of_texts_2_to_62', gguf([s('a') + u32(9) + u32(8) + u64(1 << 62)], ()))
put('gguf', 'array_of_arrays', gguf([s('a') + u32(9) + (u32(9) + u64(1)) * 3000], ()))
put('gguf', 'value_type_99', gguf([s('a') + u32(99)] + META, keys=len(META) + 1))
put('gguf', 'key_not_utf8', gguf([s(b'\xff\xfe') + u32(4) + u32(1)] + META))
put('gguf', 'text_not_utf8', gguf([s('a') + u32(8) + s(b'\xff\xfe')] + META))
put('gguf', 'key_twice', gguf(META + META[:1]))
put('gguf', 'tensor_twice', gguf(infos=(EMBED, EMBED)))
put('gguf', 'no_axes', gguf(infos=(info('token_embd.weight', []),)))
put('gguf', 'five_axes', gguf(infos=(info('token_embd.weight', [1, 1, 1, 1, 1]),)))
put('gguf', 'axis_of_zero', gguf(infos=(info('token_embd.weight', [0, 4]),)))
put('gguf', 'shape_overflows', gguf(infos=(info('token_embd.weight', [1 << 40, 1 << 40]),)))
put('gguf', 'shape_beyond_file', gguf(infos=(info('token_embd.weight', [1 << 40, 4]),)))
put('gguf', 'offset_beyond_file', gguf(infos=(info('token_embd.weight', [8, 4], 0, 1 << 50),)))
put('gguf', 'offset_wraps', gguf(infos=(info('token_embd.weight', [8, 4], 0, (1 << 64) - 32),)))
put('gguf', 'offset_not_aligned', gguf(infos=(info('token_embd.weight', [8, 4], 0, 4),)))
put('gguf', 'overlap', gguf(infos=(EMBED, info('blk.0.attn_q.weight', [8, 8], 0, 32))))
put('gguf', 'type_99', gguf(infos=(info('token_embd.weight', [8, 4], 99),)))
put('gguf', 'type_iq2_xxs', gguf(infos=(info('token_embd.weight', [256, 4], 16),)))
put('gguf', 'row_not_whole_blocks', gguf(infos=(info('token_embd.weight', [8, 4], 2),)))
put('gguf', 'alignment_zero', gguf(META + [kv_u('general.alignment', 0)]))
put('gguf', 'alignment_three', gguf(META + [kv_u('general.alignment', 3)]))
put('gguf', 'alignment_2_to_31', gguf(META + [kv_u('general.alignment', 1 << 31)]))
put('gguf', 'truncated_data', gguf(data=bytes(200)))
put('gguf', 'no_architecture', gguf(META[1:]))
put('gguf', 'architecture_other', gguf(swap(META, 'general.architecture', kv_s('general.architecture', 'mamba'))))
put('gguf', 'architecture_a_number', gguf(swap(META, 'general.architecture', kv_u('general.architecture', 1))))
put('gguf', 'heads_zero', gguf(swap(META, 'llama.attention.head_count', kv_u('llama.attention.head_count', 0))))
put('gguf', 'heads_not_in_the_rows', gguf(swap(META, 'llama.attention.head_count', kv_u('llama.attention.head_count', 3))))
put('gguf', 'no_embedding', gguf(infos=(info('blk.0.attn_q.weight', [8, 8]),)))
put('gguf', 'good_tensor_of_no_llama', gguf(infos=(EMBED, info('blk.0.ssm_in.weight', [8, 8], 0, 128))), True)
put('gguf', 'tensor_that_others_compute_with', gguf(infos=(EMBED, info('blk.0.attn_sinks.weight', [8, 8], 0, 128))))
put('gguf', 'frequencies_of_another_scaling', gguf(infos=(EMBED, info('rope_freqs.weight', [2], 0, 128))))

# Files of samples: every line of a good_ one is a sample, some of a some_ one are.
def lines(*samples): return b''.join((x if isinstance(x, bytes) else json.dumps(x).encode()) + b'\n' for x in samples)

LONG = 'Light is refracted where it enters another medium. ' * 5
NAMED = {'document': 'A prism parts light.', 'question': 'What parts light?', 'answer': 'A prism.'}
CHAT = {'messages': [{'role': 'system', 'content': 'Be brief.'}, {'role': 'user', 'content': LONG + '\n\nWhat is refracted?'},
                     {'role': 'assistant', 'content': [{'type': 'text', 'text': 'Light.'}]}]}
PAPER = {'instruction': f'Read this. The paper begins. {LONG} Now the paper ends. What is refracted?', 'output': 'Light.'}
INPUT = {'instruction': 'What is refracted?', 'input': LONG, 'output': 'Light.'}
for name, data in {
    'good_named': lines(NAMED), 'good_context_and_query': lines({'context': 'D', 'query': 'Q', 'answer': ['A', 'B']}),
    'good_longalign': lines(CHAT), 'good_longalpaca': lines(PAPER), 'good_instruction_and_input': lines(INPUT),
    'good_mixed': lines(NAMED, CHAT, PAPER, INPUT), 'good_array': b'[\n' + lines(NAMED).strip() + b',\n' + lines(CHAT) + b']\n',
    'good_windows': b'\xef\xbb\xbf' + lines(NAMED, b'', CHAT).replace(b'\n', b'\r\n'),
    'some_not_json': lines(NAMED, b'{"document": ', CHAT), 'some_not_utf8': lines(NAMED, b'{"document": "\xff"}'),
    'some_array_cut': b'[' + lines(NAMED).strip() + b',{"document": "D"', 'some_after_array': b'[' + lines(NAMED).strip() + b']{}',
    'some_without_answer': lines(NAMED, {'document': 'D', 'question': 'Q'}), 'some_number_for_text': lines(NAMED, {'document': 1, 'question': 'Q', 'answer': 'A'}),
    'empty': b'', 'blank': b'\n \n', 'array_empty': b'[]', 'unknown_keys': lines({'a': 1, 'b': 2}), 'greeting': lines({'messages': [
        {'role': 'user', 'content': 'Hello'}, {'role': 'assistant', 'content': 'Hello.'}]}), 'messages_not_a_list': lines({'messages': {'role': 1}}),
    'user_last': lines({'messages': [{'role': 'user', 'content': LONG + '\n\nWhat?'}]}), 'deep_nesting': b'{"messages": ' + b'[' * 4000 + b']' * 4000 + b'}',
}.items():
    put('sample_file', name, data, True)

# Quantised checkpoints: a layer of 8 rows and 32 columns, its config.json in the metadata.
def codes(config, tensors):
    header, data = {'__metadata__': {'config': json.dumps({'quantization_config': config})}}, b''
    for name, dtype, shape, content in tensors:
        header['l.' + name] = t(dtype, shape, (len(data), len(data) + len(content)))
        data += content
    return st(header, data)

def words(n): return bytes(i * 37 % 251 for i in range(4 * n))
def ones(n): return b'\x00\x3c' * n
def i32(*n): return struct.pack(f'<{len(n)}i', *n)

GPTQ = {'quant_method': 'gptq', 'bits': 4, 'group_size': 32, 'desc_act': True, 'sym': True}
def gptq(config=GPTQ, scales=ones(8), zeros=words(1), order=i32(*[0] * 32), columns=4, extra=()):
    return codes(config, [('qweight', 'I32', (columns, 8), words(8 * columns)), ('qzeros', 'I32', (1, 1), zeros),
                          ('scales', 'F16', (len(scales) // 16, 8), scales), ('g_idx', 'I32', (len(order) // 4,), order), *extra])
put('quantized_checkpoint', 'good_gptq', gptq(), True)
put('quantized_checkpoint', 'good_gptq_act_order', codes(GPTQ, [
    ('qweight', 'I32', (8, 8), words(64)), ('qzeros', 'I32', (2, 1), words(2)), ('scales', 'F16', (2, 8), ones(16)),
    ('g_idx', 'I32', (64,), i32(*[i % 2 for i in range(64)]))]), True)
put('quantized_checkpoint', 'good_awq', codes({'quant_method': 'awq', 'bits': 4, 'group_size': 32, 'version': 'gemm', 'zero_point': True}, [
    ('qweight', 'I32', (32, 1), words(32)), ('qzeros', 'I32', (1, 1), words(1)), ('scales', 'F16', (1, 8), ones(8))]), True)
def compressed(weights, fmt): return {'quant_method': 'compressed-tensors', 'format': fmt, 'config_groups': {'group_0': {'weights': weights}}}
PACKED = compressed({'num_bits': 4, 'type': 'int', 'symmetric': False, 'strategy': 'group', 'group_size': 32}, 'pack-quantized')
def packed(shape=(8, 32), zeros=('I32', (1, 1), words(1))):
    return codes(PACKED, [('weight_packed', 'I32', (8, 4), words(32)), ('weight_shape', 'I64', (2,), struct.pack('<2q', *shape)),
                          ('weight_scale', 'BF16', (8, 1), b'\x80\x3f' * 8), ('weight_zero_point', *zeros)])
put('quantized_checkpoint', 'good_packed', packed(), True)
put('quantized_checkpoint', 'good_bytes', codes(compressed({'num_bits': 8, 'strategy': 'channel'}, 'int-quantized'), [
    ('weight', 'I8', (8, 32), bytes(range(256))), ('weight_scale', 'F32', (8, 1), struct.pack('<8f', *[0.5] * 8))]), True)
FP8 = {'quant_method': 'fp8', 'weight_block_size': [4, 32]}
def fp8(content=bytes(256), config=FP8, shape=(2, 1)):
    return codes(config, [('weight', 'F8_E4M3', (8, 32), content), ('weight_scale_inv', 'F32', shape, struct.pack('<2f', 0.5, 2))])
put('quantized_checkpoint', 'good_fp8', fp8(), True)
for name, data in {
    'scale_infinite': gptq(scales=b'\x00\x7c' * 8), 'scale_nan': gptq(scales=b'\x01\x7e' * 8),
    'group_beyond': gptq(order=i32(*[0] * 31, 1)), 'group_negative': gptq(order=i32(*[0] * 31, -1)),
    'order_short': gptq(order=i32(*[0] * 31)), 'scales_of_two_groups': gptq(scales=ones(16)),
    'groups_do_not_divide': gptq(columns=5), 'group_size_huge': gptq({**GPTQ, 'group_size': 1 << 62}),
    'bits_three': gptq({**GPTQ, 'bits': 3}), 'weight_twice': gptq(extra=[('weight', 'F16', (8, 1), ones(8))]),
    'no_scales': codes(GPTQ, [('qweight', 'I32', (4, 8), words(32)), ('qzeros', 'I32', (1, 1), words(1))]),
    'packed_shape_negative': packed((-8, 32)), 'packed_shape_huge': packed((8, 1 << 62)),
    'packed_zero_beyond': packed(zeros=('I8', (8, 1), b'\x08' * 8)),
    'float_nan': fp8(b'\x7f' * 256), 'float_blocks_other': fp8(shape=(1, 2)),
    'float_blocks_zero': fp8(config={'quant_method': 'fp8', 'weight_block_size': [0, 0]}),
}.items():
    put('quantized_checkpoint', name, data)
