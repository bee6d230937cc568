// How commands print and end: text for people, `--json` for scripts, exit codes that mean something.
import { fstatSync, writeSync } from 'node:fs';
import { AbideError, ERRORS, sayError } from '../suppression/errors.ts';

/** 0 done, 1 failed, 2 wrong use, 3 the answer is no (late, do not send, nothing there, so already), 4 not done yet. */
export const EXIT = { done: 0, failed: 1, usage: 2, no: 3, waiting: 4 } as const;

export const print = (line: string): void => {
  process.stdout.write(`${line}\n`);
};

export const printJson = (value: unknown): void => {
  print(JSON.stringify(value, null, 2));
};

/**
 * Whatever is printed into a file stands there whole, or is an error. On a disk that fills up Node itself writes as much as there is
 * room for and takes that for all of it; only the next write fails, and after the last one there is none.
 */
export function printWhole(): void {
  if (!fstatSync(process.stdout.fd).isFile()) return;
  process.stdout._write = (chunk: Buffer, _encoding, done) => {
    try {
      for (let at = 0; at < chunk.length;) at += writeSync(process.stdout.fd, chunk, at);
    } catch (error) {
      done(error as Error);
      return;
    }
    done();
  };
}

/** Says no in words, as the answer. If a script reads standard output (`json`, a key, a file), they go to standard error. */
export function sayNo(words: string, { json }: { readonly json?: boolean | undefined } = {}): void {
  (json === true ? process.stderr : process.stdout).write(`${words}\n`);
  process.exitCode = EXIT.no;
}

/** A record of ours as scripts get it: names as in the API's JSON, and null for nothing. */
export const toJson = (record: object): Readonly<Record<string, unknown>> =>
  Object.fromEntries(
    Object.entries(record).map(([name, value]) => [
      name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`),
      (value as unknown) ?? null,
    ]),
  );

/**
 * Columns as wide as their widest cell; the last one as it is. In a terminal that is narrower than that (`terminal`: its columns), a
 * line for each cell instead, since wrapped rows cannot be read.
 */
export function printTable(
  head: readonly string[],
  rows: readonly (readonly string[])[],
  // Undefined if it is no terminal: a script finds the same columns everywhere.
  terminal = process.stdout.columns || Infinity,
): void {
  const widths = head.map((title, n) => Math.max(title.length, ...rows.map((row) => row[n]?.length ?? 0)));
  const padded = (cell: string, n: number): string =>
    n === head.length - 1 ? cell : cell.padEnd(widths[n]!);
  const lines = [head, ...rows].map((row) => row.map(padded).join('  ').trimEnd());
  if (lines.every((line) => line.length <= terminal)) return lines.forEach(print);
  const title = Math.max(...head.map(({ length }) => length));
  for (const [n, row] of rows.entries()) {
    if (n > 0) print('');
    row.forEach((cell, column) => print(`${head[column]!.padEnd(title)}  ${cell}`));
  }
}

/** 95 s, 12 min, 7 h, 3 d: how long somebody waits, not a measurement. */
export const sayDuration = (seconds: number): string =>
  seconds < 100
    ? `${Math.round(seconds)} s`
    : seconds < 6_000
      ? `${Math.round(seconds / 60)} min`
      : seconds < 172_800
        ? `${Math.round(seconds / 3_600)} h`
        : `${Math.round(seconds / 86_400)} d`;

/** How far long work is, for a person who watches: one line of a terminal that each call overwrites; elsewhere nothing. */
export const printProgress = (line: string): void => {
  if (process.stderr.isTTY) process.stderr.write(`\r\x1b[K${line}`);
};
/** Leaves the line empty for what is printed next. */
export const endProgress = (): void => {
  printProgress('');
};

/** Ends the process with the command's exit code, whatever a user's own connector left open; what is printed is seen first. */
export const leave = (): void => {
  setImmediate(() => process.exit());
};

/** Says what went wrong and what to do about it, without a stack: a person reads it. */
export function fail(error: unknown): never {
  if (error instanceof AbideError) {
    process.stderr.write(`abide: ${sayError(error)}\n`);
    // For a configuration's faults the message says more: line and column.
    for (const { pointer, detail } of error.errors ?? [])
      if (!error.message.includes(detail)) process.stderr.write(`  ${pointer}: ${detail}\n`);
    // The help for a bad value is that the faults are named, which they are.
    if (error.code !== 'invalid-value')
      process.stderr.write(`  ${ERRORS[error.code].help} (${error.code})\n`);
  } else {
    process.stderr.write(`abide: ${sayError(error)}\n`);
  }
  process.exit(EXIT.failed);
}
