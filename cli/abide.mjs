#!/usr/bin/env node
// `abide`: in a checkout the sources, on the pinned Node; published, what was compiled.
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const sources = fileURLToPath(new URL('abide.ts', import.meta.url));
const isOldNode = Number(process.versions.node.split('.')[0]) < 26;

if (existsSync(sources) && isOldNode) {
  process.argv.splice(2, 0, sources);
  await import('./installed.mjs');
} else if (isOldNode) {
  process.stderr.write(`abide: needs Node 26 or later, this is ${process.version}.\n`);
  process.exitCode = 1;
} else {
  await import(existsSync(sources) ? sources : '../dist/cli/abide.js');
}
