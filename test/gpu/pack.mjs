/**
 * npm run gpu:pack: what test/gpu/run.sh needs on a machine that has an NVIDIA driver, python3 and this checkout, and neither
 * Node nor a network: Node itself, the modules that the tests load, the addon and the CUDA library, in .carry/. What has not changed since
 * the last time is not packed again.
 */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..', '..');
const carry = join(root, '.carry');

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

const mb = (path) => `${path}: ${(statSync(path).size / 2 ** 20).toFixed(1)} MiB`;

/** Packs what `fill` puts into a folder, unless it is there already. */
function pack(name, fill) {
  const packed = join(carry, `${name}.tar.xz`);
  if (!existsSync(packed)) {
    const folder = join(carry, 'folder');
    rmSync(folder, { recursive: true, force: true });
    fill(folder);
    execFileSync('sh', ['-c', `tar -C "${folder}" -c . | xz -9 -T2 > "${packed}"`]);
    rmSync(folder, { recursive: true });
  }
  console.log(mb(packed));
}

const lock = createHash('sha256')
  .update(readFileSync(join(root, 'package-lock.json')))
  .digest('hex')
  .slice(0, 8);
mkdirSync(carry, { recursive: true });
rmSync(join(carry, 'build.tar.xz'), { force: true });
for (const file of readdirSync(carry))
  if (/^(node|modules)-/.test(file) && !file.includes(process.version) && !file.includes(lock))
    rmSync(join(carry, file));

pack(`node-${process.version}`, (folder) => cpSync(process.execPath, join(folder, '.carry', 'node')));
pack(`modules-${lock}`, (folder) => {
  const { dependencies } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
  for (const name of closure([...Object.keys(dependencies), 'tsx', 'uvu']))
    cpSync(join(root, 'node_modules', name), join(folder, 'node_modules', name), {
      recursive: true,
      // A C library that this Node does not use, and what only people read.
      filter: (path) => !/musl|\.(md|map|d\.ts|d\.mts|d\.cts)$/.test(path),
    });
});
pack('build', (folder) => {
  for (const file of ['build/Release/vl_mamba.node', 'build/Release/libvl_mamba_cuda.so', 'dist'])
    cpSync(join(root, file), join(folder, file), { recursive: true });
});
