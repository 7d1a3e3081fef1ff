/**
 * `npm run errors` writes ERRORS.md: every code that lib/, native/ and cuda/ know, where it comes from, its cause and its fix. The test
 * beside this file holds the source, this table and ERRORS.md to one another.
 */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

/** [cause, fix] */
export const codes: Record<string, [string, string]> = {
  ERR_ARG_DEVICE: ['`device` names no kind of device.', "Use `'auto'`, `'cpu'`, `'cuda'` or `'cuda:N'`."],
  ERR_ARG_DTYPE: ['`dtype` names no type of weights.', 'Use one that the message lists.'],
  ERR_ARG_IMAGE: [
    'A picture is nothing that can be read, or raw pixels and their size disagree.',
    'Give a path, URL, bytes, a Blob, a sharp instance or `{ data, width, height, channels }`.',
  ],
  ERR_ARG_MAX_PIXELS: [
    'The cap on pixels is no whole number in its range.',
    'Give a number in the range that the message names.',
  ],
  ERR_ARG_MODEL: [
    'A name of a model is none that the hub can have, or a revision is no branch, tag or commit.',
    'Write `org/name` or `org/name@revision`.',
  ],
  ERR_ARG_NAME: [
    'An op was given an input or an option that it does not have.',
    'Check the spelling against the names in the message.',
  ],
  ERR_ARG_RANGE: ['A part of a tensor was asked for that lies outside of it.', "Stay within the tensor's bytes."],
  ERR_ARG_SHAPE: [
    'A shape is none, or the array has another number of elements; a transferred array has none.',
    "Make `data.length` the product of `shape`, and don't transfer the buffer.",
  ],
  ERR_ARG_SHARD_SIZE: ['`--shard-size` is no size.', 'Use one such as `5GB`, `500MB` or `2GiB`.'],
  ERR_ARG_STDIN: ['What came on stdin is larger than allowed.', 'Pass a file instead.'],
  ERR_ARG_THREADS: ['`threads` is no whole number from 1 to 1024.', 'Leave it out for one thread on each core.'],
  ERR_ARG_TOKENS: ['`bench --tokens` is out of range.', 'Use 1 to 65536.'],
  ERR_ARG_TYPE: ['An argument has the wrong type.', 'Give what the message asks for.'],
  ERR_ASK_INCOMPLETE: [
    'Some snapshots of a library gave no answer.',
    'Look at the lines before it: each names a snapshot and its error.',
  ],
  ERR_CANCELLED: ['Native work was cancelled. Callers see the reason of their signal instead.', 'None is needed.'],
  ERR_CFG_FILE: [
    'config.json or another configuration is missing, no regular file or too large.',
    'Check that the folder is a whole checkpoint.',
  ],
  ERR_CFG_IMAGE: ['A field of preprocessor_config.json makes no sense.', 'Correct the field that the message names.'],
  ERR_CFG_JSON: [
    'A configuration is not strict JSON: syntax, encoding or a key twice.',
    'Correct it at the byte that the message names.',
  ],
  ERR_CFG_MISSING: ['A configuration lacks a field.', 'Add it, or correct its spelling.'],
  ERR_CFG_MODEL: ['config.json describes another kind of model.', 'Use a VL-Mamba checkpoint.'],
  ERR_CFG_VALUE: [
    'A field of a configuration is out of range or contradicts another.',
    'Correct the field that the message names.',
  ],
  ERR_CHAT_TEMPLATE: [
    'The chat template cannot be read or rendered.',
    'Correct the template; without one, vicuna_v1 is used.',
  ],
  ERR_CKPT_DTYPE: [
    'A weight is stored in a type that the model cannot use.',
    'Convert it to F32, F16 or BF16; what `quantize` writes is I8 and U8 with scales beside it.',
  ],
  ERR_CKPT_EXTRA: [
    'The checkpoint holds tensors that the model does not know.',
    'Compare config.json with the weights.',
  ],
  ERR_CKPT_MISSING: [
    'Weights are missing.',
    'Compare config.json with the weights; the message has the nearest names.',
  ],
  ERR_CKPT_NOT_FOUND: [
    'There is no such folder, or it holds no weights.',
    'Give the folder that holds config.json and model.safetensors.',
  ],
  ERR_CKPT_OPEN: ['The folder cannot be listed.', 'Check its permissions.'],
  ERR_CKPT_SHAPE: ["A weight's shape is not what config.json says.", 'Compare config.json with the weights.'],
  ERR_CONVERT_EXISTS: [
    'What `convert` or `quantize` shall make is there already.',
    'Give another name, or take the old one away.',
  ],
  ERR_CONVERT_WRITE: ['`convert` or `quantize` cannot write its folder.', 'Check permissions and free space.'],
  ERR_CUDA: ['A call of the CUDA runtime failed.', 'The message has the call and the reason that the driver gives.'],
  ERR_CUDA_LOST: [
    'The GPU stopped in the middle of its work, and CUDA can not be used any more in this process.',
    "Start the process again, or load the model with `device: 'cpu'`. If it happens again with the same input, report it.",
  ],
  ERR_CUDA_UNAVAILABLE: [
    'A CUDA device was asked for and there is none to use.',
    "See `vl-mamba doctor`, or use `device: 'cpu'`.",
  ],
  ERR_DISPOSED: ['The model, chat or device was disposed.', 'Load it again.'],
  ERR_DOCTOR: ['`vl-mamba doctor` found something missing.', 'See its output.'],
  ERR_GEN_MAX_NEW_TOKENS: ['`maxNewTokens` is out of range.', 'Use 0 to 1048576.'],
  ERR_GEN_MIN_P: ['`minP` is out of range.', 'Use 0 (off) to 1.'],
  ERR_GEN_N: ['`n` is no whole number from 1 to 128.', 'Give one in the range.'],
  ERR_GEN_OPTION: ['There is no such option.', 'Check the spelling; the message has the nearest name.'],
  ERR_GEN_REPETITION_PENALTY: ['`repetitionPenalty` is out of range.', 'Use 0.01 to 100; 1 is off.'],
  ERR_GEN_SEED: ['`seed` is out of range.', 'Use an integer from 0 to 2⁶⁴ − 1, a BigInt from 2⁵³ on.'],
  ERR_GEN_STOP: ['`stop` is no list of strings that can be matched.', 'Give at most 16 strings of 1 to 256 bytes.'],
  ERR_GEN_TEMPERATURE: ['`temperature` is out of range.', 'Use 0 (the likeliest token) to 100.'],
  ERR_GEN_TOP_K: ['`topK` is out of range.', 'Use a whole number; 0 is off.'],
  ERR_GEN_TOP_P: ['`topP` is out of range.', 'Use a number above 0 and at most 1.'],
  ERR_HUB_AUTH: [
    'The hub has no such model, or the token may not read it.',
    'Check the name; set `HF_TOKEN`; accept the terms of a gated model on its page.',
  ],
  ERR_HUB_CACHE: ['The cache of models cannot be written.', 'Check its permissions, or set `HF_HUB_CACHE`.'],
  ERR_HUB_FILES: [
    'A repository of the hub lacks files that a checkpoint has.',
    'Check that it is a checkpoint of this package; `vl-mamba convert` makes one.',
  ],
  ERR_HUB_HASH: [
    'What the hub sent is not what its hash says, or the hub gives no hash.',
    'Try again; should it happen again, distrust the mirror.',
  ],
  ERR_HUB_HTTP: [
    'The hub could not be reached, broke off too often or answered with an error.',
    'Check the network and `HF_ENDPOINT`; what has come is kept.',
  ],
  ERR_HUB_NOT_FOUND: ['The hub has no such model, revision or file.', 'Check the name and the revision.'],
  ERR_HUB_OFFLINE: [
    'A model is not whole in the cache, and `HF_HUB_OFFLINE` forbids to fetch it.',
    'Run `vl-mamba pull` without it.',
  ],
  ERR_HUB_SETTINGS: [
    '`HF_ENDPOINT` is no address, or the token is none.',
    'Correct the variable that the message names.',
  ],
  ERR_HUB_SIZE: [
    'A file of the hub is larger than any of its kind, or not as long as the hub said.',
    'Try again; should it happen again, distrust the mirror.',
  ],
  ERR_HUB_SPACE: ['The disk has no room for a model.', 'Make room, or set `HF_HUB_CACHE` to a folder on another disk.'],
  ERR_IMAGE_BYTES: ['A picture has too many bytes.', 'Send a smaller file.'],
  ERR_IMAGE_DECODE: ['A picture could not be decoded.', 'Save it anew as JPEG, PNG or WebP.'],
  ERR_IMAGE_EMPTY: ['A picture has no bytes.', 'Check where they come from.'],
  ERR_IMAGE_FORMAT: ['A picture is neither JPEG nor PNG nor WebP. The content decides, not the name.', 'Convert it.'],
  ERR_IMAGE_HTTP: ['A picture could not be fetched.', 'Check the address; the message has the status.'],
  ERR_IMAGE_PIXELS: ['A picture has too many pixels.', 'Send a smaller one.'],
  ERR_IMAGE_READ: ["A picture's file could not be read.", 'Check the path and its permissions.'],
  ERR_IMAGE_SHARP: [
    'sharp, which decodes pictures, could not be loaded.',
    'Reinstall sharp for this platform, or pass raw pixels.',
  ],
  ERR_IMAGE_TIMEOUT: ['A picture took too long to arrive or to decode.', 'Send a smaller one.'],
  ERR_IMAGE_TRUNCATED: ['A picture ends in the middle.', 'Fetch it again.'],
  ERR_IMAGE_URL: ['A URL of a picture is none or of a kind that is not read.', 'Use `file:`, `http(s):` or `data:`.'],
  ERR_INDEX_INCOMPLETE: [
    'Some pictures are not in the library.',
    'Look at the lines before it; a second run goes on where the first stopped.',
  ],
  ERR_INTERNAL: ['Something happened that should not: a bug.', 'Report it with the message.'],
  ERR_NONFINITE_LOGITS: [
    'The model computed NaN, +Inf or only −Inf: its weights are damaged.',
    "Check the checkpoint; try `dtype: 'f32'`.",
  ],
  ERR_NO_BINARY: [
    "There is no native binary for this platform, or it can't be loaded.",
    'In a clone, run `npm run build`; elsewhere do what the message says.',
  ],
  ERR_NO_VISION: ['A picture was given to a model that only reads text.', 'Leave it out.'],
  ERR_OP_ARG: ['The arguments of an op do not fit together.', 'Give what the message asks for.'],
  ERR_OP_ATTR: ['An option of an op has a value that it does not know.', 'Use one that the message lists.'],
  ERR_OP_DTYPE: ['A tensor has a type that the op does not take.', 'Convert it.'],
  ERR_OP_INDEX: ['An id or a slot has no row.', 'Stay within the rows that the message names.'],
  ERR_OP_NAME: ['There is no such op.', 'Use a name of native/ops.def.'],
  ERR_OP_SHAPE: [
    'The shapes of the arguments of an op do not fit together.',
    'Give the shape that the message asks for.',
  ],
  ERR_OUT_OF_MEMORY: ['The system has no memory left.', 'Use a smaller dtype or model, or end other programs.'],
  ERR_PROGRAM: [
    'A recorded program makes no sense.',
    'Report it with the message: programs are written by this package.',
  ],
  ERR_PROMPT_EMPTY: ['There is nothing to answer.', 'Give a text or a picture.'],
  ERR_PROMPT_IMAGES: [
    'The marks and the pictures of a prompt are not equally many, or there are too many.',
    'One `<image>` for each picture.',
  ],
  ERR_PROMPT_ROLE: [
    'A message has a role that the conversation cannot have there.',
    'Use the roles that the message lists.',
  ],
  ERR_PROMPT_TOO_LONG: ['A text is too long.', 'Shorten it.'],
  ERR_PROMPT_TYPE: ['A prompt or a message has the wrong type.', 'Give a string, or messages with a role and content.'],
  ERR_QUANT_DTYPE: [
    'A checkpoint that is quantised was asked for in another dtype, or to be quantised again.',
    "Use `dtype: 'auto'`, or the checkpoint that it was made from.",
  ],
  ERR_QUANT_VALUES: [
    'A matrix that shall be quantised holds NaN or infinity, or one that is quantised numbers that its format does not have.',
    'The message names the tensor. Mend the checkpoint, or fetch it again.',
  ],
  ERR_QUEUE_FULL: [
    'More generations wait than `maxQueue` allows.',
    'Try again later, or load the model with a larger `maxQueue` or `maxBatch`.',
  ],
  ERR_SCORE_CHOICES: [
    '`choices` is no list of strings, or empty, too long, or has an empty one.',
    'Give the answers whose odds you want.',
  ],
  ERR_SESSION_ASK: [
    'The chat template puts nothing of a question behind the picture alone.',
    'Use `session.generate` with a text of your own.',
  ],
  ERR_SESSION_BUSY: ['A session was rewound while a call on it had not ended.', 'Await the call first.'],
  ERR_SESSION_OPTION: [
    '`append` was given an option that it does not have.',
    'Check the spelling against the names in the message.',
  ],
  ERR_SESSION_TEMPLATE: [
    'The chat template rewrites what a session has read already.',
    'Begin a new session with all messages.',
  ],
  ERR_SHAPE: ['A tensor of a program was viewed in a shape that it does not have.', 'Report it with the message.'],
  ERR_SHARD_INDEX: ['model.safetensors.index.json is damaged.', 'Fetch it again.'],
  ERR_SHARD_MAP: ['A shard does not hold what the index says.', 'Fetch the shards again.'],
  ERR_SHARD_MISSING: ['Shards are missing.', 'Fetch the files that the message lists.'],
  ERR_SHARD_PATH: ['The index names a file outside of the folder.', "Don't use this checkpoint."],
  ERR_SNAPSHOT_CHECKSUM: ["A snapshot's bytes are not those that were written.", 'Use an undamaged copy.'],
  ERR_SNAPSHOT_CORRUPT: [
    'A snapshot cannot be read: cut short, no safetensors, or notes that fit no text.',
    'Use an undamaged copy.',
  ],
  ERR_SNAPSHOT_FORMAT: ['The bytes are another kind of safetensors file.', 'Give what `snapshot()` returned.'],
  ERR_SNAPSHOT_MODEL: ['A snapshot belongs to another model.', 'Restore it with the model that made it.'],
  ERR_SNAPSHOT_SHAPE: [
    'The tensors of a snapshot are not the states of this model.',
    'Restore it with the model that made it.',
  ],
  ERR_SNAPSHOT_VALUES: ['A snapshot holds NaN or infinity.', 'Use an undamaged copy.'],
  ERR_SNAPSHOT_VERSION: ['A snapshot was written by a newer version.', 'Update the package.'],
  ERR_ST_CHANGED: ['A file of weights changed while it was read.', 'Load again when nobody writes to it.'],
  ERR_ST_DTYPE: ['A tensor has an element type that does not exist.', 'Write the file anew.'],
  ERR_ST_DUPLICATE_KEY: ['A name occurs twice in a header.', 'Write the file anew.'],
  ERR_ST_FIELD: ['A tensor lacks a field, or has a wrong one.', 'Write the file anew.'],
  ERR_ST_HEADER_EMPTY: ['A file of weights has no header.', 'Fetch it again.'],
  ERR_ST_HEADER_LEN: ['A file of weights ends before its header does.', 'Fetch it again: the download was cut short.'],
  ERR_ST_HEADER_TOO_LARGE: ['The header is larger than allowed.', 'Check that it is a safetensors file.'],
  ERR_ST_HOLE: ['There are bytes that belong to no tensor.', 'Write the file anew.'],
  ERR_ST_INT: ['A size or an offset is no whole number that can be told exactly.', 'Write the file anew.'],
  ERR_ST_JSON: ['A header is not strict JSON.', 'Write the file anew.'],
  ERR_ST_METADATA: ['`__metadata__` is no object of strings.', 'Write the file anew.'],
  ERR_ST_NAME: ["A tensor's name is empty, too long or holds a NUL.", 'Rename the tensor.'],
  ERR_ST_NOT_REGULAR: ['A file of weights is a pipe, a device, a socket or a folder.', 'Use a regular file.'],
  ERR_ST_NOT_SAFETENSORS: ['It is another kind of file: the message says which.', 'Convert it to safetensors.'],
  ERR_ST_OFFSETS: ["A tensor's offsets are no pair in order.", 'Write the file anew.'],
  ERR_ST_OPEN: ['A file of weights cannot be opened.', 'Check the path and its permissions.'],
  ERR_ST_OVERFLOW: ["A tensor's size is beyond what can be counted.", "Don't use this file."],
  ERR_ST_OVERLAP: ['Two tensors share bytes.', 'Write the file anew.'],
  ERR_ST_RANK: ['A tensor has too many dimensions.', 'Write the file anew.'],
  ERR_ST_READ: ['Reading a file of weights failed.', "Check the disk; the cause has the system's error."],
  ERR_ST_SIZE: ["A tensor's shape and bytes disagree.", 'Write the file anew.'],
  ERR_ST_SUBBYTE: ['A tensor of less than a byte an element does not end on a byte.', 'Write the file anew.'],
  ERR_ST_TOO_MANY_TENSORS: ['There are more tensors than allowed.', "Don't use this file."],
  ERR_ST_TOO_SMALL: ['A file is too small to be safetensors.', 'Fetch it again.'],
  ERR_ST_TRAILING: ['There are bytes after the last tensor.', 'Write the file anew.'],
  ERR_ST_TRUNCATED: ['A file of weights ends too early.', 'Fetch it again.'],
  ERR_ST_UTF8: ['A header is not UTF-8.', 'Write the file anew.'],
  ERR_THREAD: ['The system starts no more threads.', 'Lower `threads`, or the number of devices.'],
  ERR_TOK_ADDED: ['An added token of tokenizer.json makes no sense.', 'Correct the token that the message names.'],
  ERR_TOK_CONFIG: ['tokenizer_config.json makes no sense.', 'Correct the field that the message names.'],
  ERR_TOK_DROPOUT: ['tokenizer.json asks for random merges.', 'Set `dropout` to null.'],
  ERR_TOK_DUPLICATE: ['A token or an id occurs twice.', 'Correct tokenizer.json.'],
  ERR_TOK_EOS: [
    'The token that ends a text is not the same in all files.',
    'Make the ids that the message names agree.',
  ],
  ERR_TOK_FILE: [
    'tokenizer.json is missing, no regular file or too large.',
    'Check that the folder is a whole checkpoint.',
  ],
  ERR_TOK_ID: [
    'An id has no row in the embedding.',
    'Use the tokenizer of this model, and ids below the number in the message.',
  ],
  ERR_TOK_JSON: ['tokenizer.json is not strict JSON.', 'Correct it at the byte that the message names.'],
  ERR_TOK_MERGES: ['A merge of tokenizer.json makes no sense.', 'Correct the merge that the message names.'],
  ERR_TOK_MODEL: ['The tokenizer is of another kind than BPE.', 'Use a byte-level BPE tokenizer.'],
  ERR_TOK_SPECIAL: ['A special token is missing or is not special.', 'Correct tokenizer.json.'],
  ERR_TOK_UNK: ['The unknown token is not in the vocabulary.', 'Correct tokenizer.json.'],
  ERR_TOK_UNSUPPORTED: ['tokenizer.json uses a part that is not supported.', 'The message names it and what is.'],
  ERR_TOK_VERSION: ['tokenizer.json is of another version.', 'Write it anew.'],
  ERR_TOK_VOCAB: ['The vocabulary makes no sense.', 'Correct tokenizer.json.'],
  ERR_USAGE: ['A command line that cannot be meant.', 'See `vl-mamba --help`.'],
  ERR_USAGE_LIBRARY: ['A folder is no library of pictures, or an empty one.', 'Make one with `vl-mamba index`.'],
  ERR_VERIFY: [
    "A step's results on the GPU are not the CPU's (`verify: true`).",
    'Report it: the message names the op and the tensor.',
  ],
};

/** The codes in quotes in lib/, native/ and cuda/, with the files they are in. */
export function codesInSource(): Map<string, string[]> {
  const found = new Map<string, string[]>();
  for (const folder of ['lib', 'native', 'cuda'])
    for (const file of (readdirSync(folder, { recursive: true }) as string[]).sort()) {
      if (!/\.(ts|cc|h|cu|cuh)$/.test(file)) continue;
      const path = join(folder, file).replaceAll('\\', '/');
      for (const [, code] of readFileSync(path, 'utf8').matchAll(/['"`](ERR_[A-Z0-9_]*[A-Z0-9])['"`]/g)) {
        const files = found.get(code!) ?? [];
        if (!files.includes(path)) files.push(path);
        found.set(code!, files);
      }
    }
  return new Map([...found].sort(([a], [b]) => (a < b ? -1 : 1)));
}

export function markdown(): string {
  const rows = [...codesInSource()].map(([code, files]) => {
    const [cause, fix] = codes[code] ?? ['', ''];
    return `| \`${code}\` | ${cause} | ${fix} | ${files.join(', ')} |`;
  });
  return `# Error codes

Generated by \`npm run errors\`. Codes are part of the API and stay; messages are for people and may change. An argument of the
wrong type is a \`TypeError\`, one out of range a \`RangeError\`, everything else a \`VLMambaError\`; all have a \`code\`. A call that
was cancelled rejects with the reason of its signal.

| code | cause | fix | from |
|---|---|---|---|
${rows.join('\n')}
`;
}

if (process.argv[1]?.endsWith('error_codes.ts')) writeFileSync('ERRORS.md', markdown());
