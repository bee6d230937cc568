// Loaded before Abide in a process whose clock is to jump: `Date` is ahead of the true one by what a file of that process says.
// The monotonic clock, by which timers go, goes on as it does on a machine whose clock was set.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { performance } from 'node:perf_hooks';

const LOOK_MS = 20;
const { argv, env } = process;
const command = argv[2];
const name = command === 'worker' ? argv[argv.indexOf('--store') + 1] : command;
const file = join(env.ABIDE_CHAOS_CLOCKS, name ?? 'node');

let aheadMs = 0;
let lookedAt = -Infinity;
function ahead() {
  if (performance.now() - lookedAt < LOOK_MS) return aheadMs;
  lookedAt = performance.now();
  try {
    aheadMs = Number(readFileSync(file, 'utf8'));
  } catch {
    aheadMs = 0;
  }
  return aheadMs;
}

const True = Date;
globalThis.Date = class extends True {
  constructor(...given) {
    super(...(given.length === 0 ? [True.now() + ahead()] : given));
  }
  static now() {
    return True.now() + ahead();
  }
};
