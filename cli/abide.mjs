#!/usr/bin/env node
// `abide`: in a checkout the sources, on the pinned Node; published, what was compiled.
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const pathOf = (path) => fileURLToPath(new URL(path, import.meta.url));
const sources = pathOf('abide.ts');

// What is published, and what an image holds, is without this list of what is to be installed, and installs nothing.
if (existsSync(pathOf('../package-lock.json'))) {
  process.argv.splice(2, 0, sources);
  await import('./installed.mjs');
} else if (Number(process.versions.node.split('.')[0]) < 26) {
  process.stderr.write(`abide: needs Node 26 or later, this is ${process.version}.\n`);
  process.exitCode = 1;
} else {
  await import(existsSync(sources) ? sources : '../dist/cli/abide.js');
}
