/**
 * npm run gpu:pack: what test/gpu/run.sh needs on a machine that has an NVIDIA driver, python3 and this checkout, and neither
 * Node nor a network: Node itself, the addon, the CUDA library and the modules that the tests load, in .carry/gpu.tar.xz.
 */
import { execFileSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..', '..');
const carry = join(root, '.carry');
const folder = join(carry, 'gpu');

/** Packages and everything they depend on that is installed. */
function closure(names, found = new Set()) {
  for (const name of names) {
    const manifest = join(root, 'node_modules', name, 'package.json');
    if (found.has(name) || !existsSync(manifest)) continue;
    found.add(name);
    const { dependencies = {}, optionalDependencies = {} } = JSON.parse(readFileSync(manifest, 'utf8'));
    closure([...Object.keys(dependencies), ...Object.keys(optionalDependencies)], found);
  }
  return found;
}

rmSync(folder, { recursive: true, force: true });
mkdirSync(folder, { recursive: true });
const { dependencies } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
for (const name of closure([...Object.keys(dependencies), 'tsx', 'uvu']))
  cpSync(join(root, 'node_modules', name), join(folder, 'node_modules', name), {
    recursive: true,
    // A C library that this Node does not use, and what only people read.
    filter: (path) => !/musl|\.(md|map|d\.ts|d\.mts|d\.cts)$/.test(path),
  });
for (const file of ['vl_mamba.node', 'libvl_mamba_cuda.so'])
  cpSync(join(root, 'build', 'Release', file), join(folder, 'build', 'Release', file));
cpSync(join(root, 'dist'), join(folder, 'dist'), { recursive: true });

// Node hardly ever changes and takes a minute to pack.
const packedNode = join(carry, `node-${process.version}.xz`);
if (!existsSync(packedNode)) execFileSync('sh', ['-c', `xz -9 -T2 -c "${process.execPath}" > "${packedNode}"`]);
const packed = join(carry, 'gpu.tar.xz');
execFileSync('sh', ['-c', `tar -C "${folder}" -c . | xz -6 -T2 > "${packed}"`]);
rmSync(folder, { recursive: true });
const mb = (path) => `${(statSync(path).size / 2 ** 20).toFixed(1)} MiB`;
console.log(`${packed}: ${mb(packed)}, ${packedNode}: ${mb(packedNode)}`);
