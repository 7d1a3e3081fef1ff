import { execFileSync } from 'node:child_process';
import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { suite } from '../kit.ts';
import { buildMocks, linkMockRuntime, type Mocks, root } from './mocks.ts';

const test = suite('faults of the GPU');
const mocks: Mocks | undefined = process.platform === 'linux' ? buildMocks() : undefined;
const runtime = mocks && linkMockRuntime(mocks);
test.after(() => mocks && rmSync(mocks.scratch, { recursive: true }));

/** VL_MAMBA_FAULT_STEP=1: every single call, which takes minutes. */
const stepOr = (fewer: number) => Number(process.env.VL_MAMBA_FAULT_STEP ?? fewer);

function loop(library: string, step: number, least: number): void {
  const { scratch, driver } = mocks!;
  const control = join(scratch, 'control');
  writeFileSync(control, new Int32Array(4));
  const output = execFileSync(
    process.execPath,
    ['--expose-gc', '--import', 'tsx', join('test', 'cuda', 'fault_loop.ts'), control, String(step)],
    {
      cwd: root,
      encoding: 'utf8',
      env: {
        ...process.env,
        LD_LIBRARY_PATH: driver,
        MOCK_DRIVER_CARDS: '90:NVIDIA H200',
        VL_MAMBA_CUDA_LIBRARY: library,
        MOCK_LIBRARY_CONTROL: control,
      },
    },
  );
  const { failed } = JSON.parse(output.trim().split('\n').at(-1)!) as { failed: number };
  assert.ok(failed >= least / step, `${failed} calls failed`);
  console.log(`${failed} calls failed`);
}

(mocks ? test : test.skip)('calls of the CUDA library fail, once and with all that follow', () =>
  loop(mocks!.library, stepOr(5), 700),
);

(runtime ? test : test.skip)('calls that the CUDA library makes fail, once and with all that follow', () =>
  loop(runtime!, stepOr(41), 2500),
);

test.run();
