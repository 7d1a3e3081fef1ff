#!/usr/bin/env node
import { main } from './cli/main.ts';

main(process.argv).then((status) => {
  process.exitCode = status;
});
