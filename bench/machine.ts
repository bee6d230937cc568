// What the figures depend on besides the code. A commit waits for the disk at least once, so no latency at a percentile is below
// that of the disk.
import { closeSync, fdatasyncSync, mkdtempSync, openSync, rmSync, writeSync } from 'node:fs';
import { availableParallelism, cpus, tmpdir } from 'node:os';
import { join } from 'node:path';
import { print } from '../cli/output.ts';
import { ms, percentile } from './measure.ts';

const FLUSHES = 500;
/** As PostgreSQL's log: whole pages, written over in a file that has its size already. */
const PAGE = Buffer.alloc(8192, 1);
const PAGES = 2048;

/** Milliseconds of each of FLUSHES flushes of one page, where benchmarks keep their data. */
function flush(): number[] {
  const folder = mkdtempSync(join(tmpdir(), 'abide-bench-'));
  const file = openSync(join(folder, 'log'), 'w');
  try {
    for (let n = 0; n < PAGES; n += 1) writeSync(file, PAGE);
    fdatasyncSync(file);
    return Array.from({ length: FLUSHES }, (_, n) => {
      writeSync(file, PAGE, 0, PAGE.length, (n % PAGES) * PAGE.length);
      const began = performance.now();
      fdatasyncSync(file);
      return performance.now() - began;
    });
  } finally {
    closeSync(file);
    rmSync(folder, { recursive: true });
  }
}

export function printMachine(): void {
  const took = flush();
  print(
    `${availableParallelism()} cores (${cpus()[0]?.model.trim() ?? 'unknown'}), Node ${process.version}; ` +
      `a flush of one page to the disk: p50 ${ms(percentile(took, 0.5))}, p99 ${ms(percentile(took, 0.99))}`,
  );
}
