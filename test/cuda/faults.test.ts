import { execFileSync } from 'node:child_process';
import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { suite } from '../kit.ts';
import { buildMocks, type Mocks, root } from './mocks.ts';

const test = suite('faults of the GPU');
const add = process.platform === 'linux' ? test : test.skip;
let mocks: Mocks;
test.after(() => mocks && rmSync(mocks.scratch, { recursive: true }));

add('every call of the CUDA library fails once, and with all that follow', () => {
  mocks = buildMocks();
  const control = join(mocks.scratch, 'control');
  writeFileSync(control, new Int32Array(4));
  const output = execFileSync(
    process.execPath,
    ['--expose-gc', '--import', 'tsx', join('test', 'cuda', 'fault_loop.ts'), control],
    {
      cwd: root,
      encoding: 'utf8',
      env: {
        ...process.env,
        LD_LIBRARY_PATH: mocks.driver,
        MOCK_DRIVER_CARDS: '90:NVIDIA H200',
        VL_MAMBA_CUDA_LIBRARY: mocks.library,
        MOCK_LIBRARY_CONTROL: control,
      },
    },
  );
  const { failed } = JSON.parse(output.trim().split('\n').at(-1)!) as { failed: number };
  assert.ok(failed > 60, `${failed} calls failed`);
  console.log(`${failed} calls failed`);
});

test.run();
