import { join } from 'node:path';
import { packageRoot } from './binding.ts';

/** The name of the model that comes with the package. */
export const DEMO = 'demo';

/** Its folder. */
export const demoFolder = (): string => join(packageRoot(), 'models', 'demo');

/** On a command line `demo` is always the bundled model; a folder of that name is `./demo`. */
export const modelFolder = (name: string): string => (name === DEMO ? demoFolder() : name);
