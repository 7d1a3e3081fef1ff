import { join } from 'node:path';
import { packageRoot } from '../binding.ts';

/** The folder of the model that comes with the package. */
export const demoFolder = (): string => join(packageRoot(), 'models', 'demo');

/** `demo` names the bundled model; a folder of that name is `./demo`. */
export const modelFolder = (name: string): string => (name === 'demo' ? demoFolder() : name);
