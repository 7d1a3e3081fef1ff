/**
 * npm run test:native: the native core without Node, its threads under ThreadSanitizer, and everything with faults of the system
 * in every place under AddressSanitizer, UndefinedBehaviorSanitizer and LeakSanitizer.
 */
import { join } from 'node:path';
import { build, must } from './build.ts';

must(join(build('thread'), 'native_test'), [], { TSAN_OPTIONS: 'halt_on_error=1' });
must(join(build('address'), 'native_test'), [], { ASAN_OPTIONS: 'detect_leaks=1' });
