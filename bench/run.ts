// `npm run bench` runs (a) to (e); `npm run bench -- growth` (f), which makes ten million decisions first; `npm run bench --
// stack` (g), which needs a JDK and Maven; `npm run bench -- reconcile` (h), with a million subjects; `npm run bench -- import`
// (i), a file of a million; or name some.
import { EXIT, print } from '../cli/output.ts';
import { benchCatchUp } from './catch-up.ts';
import { benchChecks } from './checks.ts';
import { benchGrowth } from './growth.ts';
import { benchImport } from './import.ts';
import { printMachine } from './machine.ts';
import { benchPropagate } from './propagate.ts';
import { benchRecord } from './record.ts';
import { benchReconcile } from './reconcile.ts';
import { benchStack } from './stack.ts';
import { benchStart } from './start.ts';

const BENCHES = {
  record: benchRecord,
  propagate: benchPropagate,
  'catch-up': benchCatchUp,
  checks: benchChecks,
  start: benchStart,
  growth: benchGrowth,
  reconcile: benchReconcile,
  stack: benchStack,
  import: benchImport,
} as const;
const NAMES = Object.keys(BENCHES) as (keyof typeof BENCHES)[];

/** Benchmarks that take minutes, or need more than is here, run only when they are named. */
const LARGE: readonly string[] = ['growth', 'reconcile', 'stack', 'import'];

const asked = process.argv.slice(2);
const unknown = asked.filter((name) => !(NAMES as string[]).includes(name));
if (unknown.length > 0) {
  print(`no benchmark ${unknown.join(', ')}; there are ${NAMES.join(', ')}`);
  process.exit(EXIT.usage);
}
printMachine();
for (const name of asked.length > 0
  ? NAMES.filter((one) => asked.includes(one))
  : NAMES.filter((one) => !LARGE.includes(one))) {
  await BENCHES[name]();
}
