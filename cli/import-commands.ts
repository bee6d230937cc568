// import: sends and watches a file of opt-outs, has it approved by somebody else, and names the rows that were not taken.
import { extname } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { InvalidArgumentError, Option } from 'commander';
import type { Command } from 'commander';
import { AbideProblem } from '../client/client.ts';
import type { Abide, Fault, Import, RowError, SentImport } from '../client/client.ts';
import { IMPORT_FORMATS, IMPORT_STATES } from '../ledger/contract/imports.ts';
import type { ImportFormat, ImportState } from '../ledger/contract/imports.ts';
import { REASONS } from '../ledger/contract/opt-outs.ts';
import type { Reason } from '../ledger/contract/opt-outs.ts';
import { ERRORS } from '../suppression/errors.ts';
import { createAsk, LONG_PATIENCE, NobodyAnswersError, unlessNotThere, withApi } from './api-client.ts';
import type { ApiOptions, Ask } from './api-client.ts';
import { openImportSource } from './import-source.ts';
import type { ImportSource } from './import-source.ts';
import { untilInterrupted } from './interruption.ts';
import { EXIT, print, printJson, printTable, sayNo } from './output.ts';
import { createPace, drawAmount, sayBytes, showProgress } from './progress.ts';
import { readCount, readInstant } from './read-arguments.ts';
import { expectNothingAt, writeWhole } from './write-whole.ts';

const FORMATS: Readonly<Record<string, ImportFormat>> = {
  '.csv': 'csv',
  '.ndjson': 'ndjson',
  '.jsonl': 'ndjson',
};
const ERRORS_SHOWN = 5;
const ERRORS_PAGE = 1_000;
/** How waiting for an import that was not done ends: its state says the same. */
const SETTLED: readonly string[] = ['awaiting-approval', 'import-failed', 'import-cancelled'];

type Sending = ApiOptions & {
  readonly format?: ImportFormat;
  readonly scopes?: readonly string[];
  readonly reason?: Reason;
  readonly effectiveAt?: string;
  readonly dryRun?: true;
  readonly wait: boolean;
  readonly errorsTo?: string;
  readonly json?: true;
};
type Looking = ApiOptions & { readonly wait?: true; readonly errorsTo?: string; readonly json?: true };

const note = (line: string): void => {
  process.stderr.write(`${line}\n`);
};

const toScopes = (text: string): readonly string[] => text.split(/[\s;,]+/).filter((word) => word !== '');

function formatOf(name: string): ImportFormat {
  const format = FORMATS[extname(name).toLowerCase()];
  if (format !== undefined) return format;
  throw new InvalidArgumentError(
    `The format of ${name === '-' ? 'standard input' : name} cannot be told from its name: give --format ${IMPORT_FORMATS.join(' or ')}.`,
  );
}

export function addImport(program: Command): void {
  const command = withApi(program.command('import').enablePositionalOptions())
    .description('Record a file of opt-outs: CSV with a header, or one JSON object per line')
    .argument('<file>', 'the file; - is standard input')
    .addOption(
      new Option(
        '--format <format>',
        'needed where the name does not end in .csv, .ndjson or .jsonl',
      ).choices(IMPORT_FORMATS),
    )
    .option('--scopes <scopes>', 'what people refuse, if their row does not say it: "email sms"', toScopes)
    .addOption(
      new Option('--reason <reason>', 'why, if a row does not say it (default person_request)').choices(
        REASONS,
      ),
    )
    .option(
      '--effective-at <time>',
      'since when, if a row does not say it (default: when the file is received)',
      readInstant,
    )
    .option('--dry-run', 'count what it would do, and record nothing')
    .option('--no-wait', 'send it, and do not wait until it is recorded')
    .option(
      '--errors-to <file>',
      'write every row that was not taken to a new CSV file: row,line,column,code',
    )
    .option('--json', 'print the import as JSON')
    .addHelpText(
      'after',
      `
Columns, or members of each object: email, phone, push_token, person_id,
scopes, effective_at, reason. Any may be left out, but every row needs an
identifier. Example:

  $ cat opt-outs.csv
  email,phone,scopes
  ada@example.com,+41791234567,email sms
  bob@example.com,,
  $ abide import opt-outs.csv --scopes email --dry-run
  $ abide import opt-outs.csv --scopes email --errors-to not-taken.csv

Several identifiers in a row belong to one person. No command takes an opt-out
back, so try --dry-run first. The same file with the same options is the same
import: whatever went wrong, send it again. Rows that were not taken go into a
file of their own once they are mended; or mend abide.yaml (default_region,
topics, purposes) and send the same file again: then only they are tried. A
file of more than 100000 rows, unless abide.yaml says otherwise, waits until
somebody else has approved it. If a file has the name of a command, write
./list.

Exit code 0: every row was taken. 3: some were not, or it was cancelled. 4: it
waits for an approval. 1: it failed, and what was recorded by then stays
recorded. With --no-wait 0 says only that the file was received. If you
interrupt it while it sends the file, nothing is recorded; after that the
import goes on by itself.`,
    )
    .action(importFile);

  withApi(command.command('status'))
    .description(
      'How far an import is, and which rows were not taken. Exits as the import itself would; with 4 while it goes on.',
    )
    .argument('<id>', 'as `abide import` and `abide import list` print it')
    .option('--wait', 'watch it until it is done')
    .option(
      '--errors-to <file>',
      'write every row that was not taken to a new CSV file: row,line,column,code',
    )
    .option('--json', 'print the import as JSON')
    .action(status);

  withApi(command.command('list'))
    .description("The imports of the key's client, newest first; of every client for a key that approves")
    .addOption(new Option('--state <state>', 'only those in this state').choices(IMPORT_STATES))
    .option('--limit <n>', 'at most this many', readCount(1), 20)
    .option('--json', 'print JSON')
    .action(list);

  withApi(command.command('approve'))
    .description(
      'Let a large import begin. Needs another key than the one that sent it (scope imports:approve).',
    )
    .argument('<id>', 'as `abide import` and `abide import list` print it')
    .option('--json', 'print the import as JSON')
    .action((id: string, options: Looking) =>
      decide(id, options, {
        scope: 'imports:approve',
        ask: (abide) => abide.imports.approve(id),
        done: ({ rows, client }) =>
          `${id}: approved, ${rows.total} rows of ${client}. How far it is: abide import status ${id}`,
      }),
    );

  withApi(command.command('cancel'))
    .description('End an import that has not begun. What is recorded is recorded: one that runs goes on.')
    .argument('<id>', 'as `abide import` and `abide import list` print it')
    .option('--json', 'print the import as JSON')
    .action((id: string, options: Looking) =>
      decide(id, options, {
        scope: 'imports:write',
        ask: (abide) => abide.imports.cancel(id),
        done: ({ rows }) => `${id}: cancelled, and none of its ${rows.total} rows is recorded`,
      }),
    );
}

async function importFile(name: string, options: Sending): Promise<void> {
  const { errorsTo } = options;
  if (!options.wait && errorsTo !== undefined)
    throw new InvalidArgumentError('--errors-to needs the end: leave --no-wait out, or ask later.');
  if (errorsTo !== undefined) expectNothingAt(errorsTo);
  const source = await openImportSource(name);
  const format = options.format ?? formatOf(name);
  // A name may end in .csv and the file be something else.
  const what = `${source.name} (read as ${format.toUpperCase()})`;
  const say = (problem: AbideProblem): Error | undefined => inWords(problem, what, options.scopes);
  // If nobody answers, or not to such a key, that is known before the file is read.
  await createAsk(options, { say })((abide) => abide.imports.list({ limit: 1 }).next());
  const ask = createAsk(options, { patience: LONG_PATIENCE, say });

  const interruption = untilInterrupted();
  let made: SentImport;
  try {
    made = await send(ask, source, { ...options, format }, interruption.signal);
  } catch (error) {
    const known = source.isAllSent()
      ? `it is not known whether ${source.name} arrived: \`abide import list\` shows it, and the same file sent again is the same import`
      : `nothing of ${source.name} was recorded`;
    if (interruption.isThere()) {
      note(`interrupted: ${known}`);
      return interruption.pass();
    }
    if (error instanceof NobodyAnswersError)
      throw new Error(`${error.message}\n  Until then ${known}.`, { cause: error });
    throw error;
  }
  note(
    made.outcome === 'received'
      ? `${made.id}: received, ${made.rows.total} rows`
      : `${made.id}: the same file was received at ${made.created_at} already, and is this import`,
  );
  const { outcome: _, ...sent } = made;
  const ended = options.wait ? await watch(ask, sent, interruption) : sent;
  if (ended === undefined) return;
  interruption.stop();
  await show(ask, ended, options);
  if (made.outcome !== 'received' && ended.counts.invalid > 0)
    note(
      'rows that were not taken are tried again with the same file only once abide.yaml reads rows otherwise: put mended ones into a file of their own',
    );
  if (!options.wait && options.json !== true && isGoingOn(ended))
    print(`how far it is: abide import status ${ended.id}`);
}

async function send(
  ask: Ask,
  source: ImportSource,
  { format, scopes, reason, effectiveAt, dryRun }: Sending & { readonly format: ImportFormat },
  signal: AbortSignal,
): Promise<SentImport> {
  const pace = createPace();
  using _ = showProgress((width) => {
    const done = source.sent();
    const aSecond = pace(done, performance.now());
    return drawAmount(
      { what: 'sending', done, total: source.bytes, say: sayBytes, unit: '', aSecond },
      width,
    );
  });
  const parameters = { format, scopes, reason, effectiveAt, dryRun };
  return await ask((abide) => abide.imports.create(source.file, { ...parameters, signal }));
}

const isGoingOn = ({ state }: Import): boolean => state === 'pending' || state === 'running';

/** Until its end, or until it waits for somebody; undefined if the watching was interrupted. */
async function watch(
  ask: Ask,
  first: Import,
  interruption: ReturnType<typeof untilInterrupted>,
): Promise<Import | undefined> {
  if (!isGoingOn(first)) return first;
  const { id, dry_run } = first;
  const pace = createPace();
  let now = first;
  const goesOn = `the import goes on by itself: abide import status ${id}`;
  try {
    using _ = showProgress((width) => {
      const { rows, counts } = now;
      if (now.state === 'pending') return 'waiting for its turn';
      const what = dry_run ? 'counting' : 'recording';
      const aSecond = pace(rows.done, performance.now());
      const more = counts.invalid > 0 ? `${counts.invalid} invalid` : undefined;
      return drawAmount(
        { what, done: rows.done, total: rows.total, say: String, unit: ' rows', aSecond, more },
        width,
      );
    });
    return await ask((abide) =>
      abide.imports
        .waitUntilDone(id, { signal: interruption.signal, onProgress: (one) => (now = one) })
        .catch((error: unknown) => {
          if (error instanceof AbideProblem && SETTLED.includes(error.code)) return now;
          throw error;
        }),
    );
  } catch (error) {
    if (interruption.isThere()) {
      note(`interrupted: ${goesOn}`);
      interruption.pass();
      return undefined;
    }
    if (error instanceof NobodyAnswersError)
      throw new Error(`${error.message}\n  Once Abide runs again ${goesOn}`, { cause: error });
    throw error;
  }
}

/** What an import did, or what it waits for, and the exit code that says the same. */
async function show(
  ask: Ask,
  one: Import,
  { errorsTo, json }: { readonly errorsTo?: string; readonly json?: true },
): Promise<void> {
  const { id, state, rows, counts, dry_run } = one;
  process.exitCode =
    state === 'awaiting_approval'
      ? EXIT.waiting
      : state === 'failed'
        ? EXIT.failed
        : state === 'cancelled' || counts.invalid > 0
          ? EXIT.no
          : EXIT.done;
  if (errorsTo !== undefined && state !== 'awaiting_approval') await writeErrors(ask, id, errorsTo);
  if (json === true) return printJson(one);
  if (state === 'awaiting_approval') {
    print(`${id}: ${rows.total} rows. A file of so many begins only once somebody else has approved it:`);
    print(`  abide import approve ${id}`);
    print(
      '      with another key than the one that sent it, by --key or ABIDE_KEY; it needs the scope imports:approve',
    );
    print('  abide keys create --client NAME --scope imports:approve');
    print('      makes such a key');
    print(`  abide import cancel ${id}`);
    print('      takes the file back');
    return;
  }
  if (state === 'cancelled') return print(`${id}: cancelled, nothing of it is recorded`);
  if (state === 'failed') print(`${id}: failed after ${rows.done} of ${rows.total} rows: ${sayFailure(one)}`);
  else if (isGoingOn(one)) print(`${id}: ${state}, ${rows.done} of ${rows.total} rows`);
  print(
    dry_run
      ? `${rows.done} rows: ${counts.recorded} would be recorded, ${counts.already} already, ${counts.invalid} invalid (dry run: nothing is recorded)`
      : `${rows.done} rows: ${counts.recorded} recorded, ${counts.already} already, ${counts.invalid} invalid`,
  );
  if (state === 'failed' && !dry_run)
    print('what is recorded stays recorded; if you send the file again, it counts as already');
  if (counts.invalid > 0 && errorsTo === undefined) await showErrors(ask, id);
}

const sayFailure = ({ failure }: Import): string =>
  failure === 'budget-exhausted'
    ? 'the key has spent its opt-outs for the day (UTC); `abide keys limit KEY-ID --opt-outs-per-day N` raises them'
    : `${Object.entries(ERRORS).find(([code]) => code === failure)?.[1].title ?? 'it is not known why'} (${failure ?? 'no code'})`;

async function showErrors(ask: Ask, id: string): Promise<void> {
  const { errors, found } = await ask((abide) =>
    abide.call('GET /v2/imports/{id}/errors', { path: { id }, query: { limit: ERRORS_SHOWN } }),
  );
  for (const error of errors) print(`  row ${error.row} (line ${error.line}): ${sayRowError(error)}`);
  if (found > errors.length)
    print(`  and ${found - errors.length} more: abide import status ${id} --errors-to FILE`);
}

const READ_AS: Readonly<Record<string, string>> = {
  email: 'an email address',
  phone: 'a phone number',
  push_token: 'a push token',
  person_id: 'a person id',
  scopes: 'scopes that Abide knows',
  effective_at: 'a time with an offset, from 1970 to 9999',
  reason: `one of ${REASONS.join(', ')}`,
};

function sayRowError({ column, code }: RowError): string {
  switch (code) {
    case 'invalid':
      return `${column ?? 'it'} cannot be read as ${READ_AS[column ?? ''] ?? 'a value of the column'}`;
    case 'missing':
      return column === null ? 'nobody is named' : `no ${column}`;
    case 'too_far_ahead':
      return `${column ?? 'its date'} is more than an hour ahead`;
    case 'not_utf8':
      return `${column ?? 'it'} is not text in UTF-8`;
    case 'not_json':
      return 'it is not a JSON object';
    case 'wrong_number_of_fields':
      return 'it has more or fewer fields than the header';
    default:
      // A code that only a newer API knows.
      return `${column ?? 'it'}: ${String(code satisfies never)}`;
  }
}

async function writeErrors(ask: Ask, id: string, name: string): Promise<void> {
  let listed = 0;
  async function* lines(abide: Abide): AsyncGenerator<string> {
    yield 'row,line,column,code\n';
    for await (const { row, line, column, code } of abide.imports.errors(id, { limit: ERRORS_PAGE })) {
      listed += 1;
      yield `${row},${line},${column ?? ''},${code}\n`;
    }
  }
  const { found } = await ask((abide) =>
    abide.call('GET /v2/imports/{id}/errors', { path: { id }, query: { limit: 1 } }),
  );
  await ask((abide) => writeWhole(name, (to) => pipeline(Readable.from(lines(abide)), to)));
  const all = found === 1 ? 'the one error' : `all ${found} errors`;
  note(`${name} has ${listed === found ? all : `the first ${listed} of ${found} errors`}`);
}

async function status(id: string, options: Looking): Promise<void> {
  if (options.errorsTo !== undefined) expectNothingAt(options.errorsTo);
  const say = (problem: AbideProblem): Error | undefined => inWords(problem, id);
  const found = await createAsk(options, { say })((abide) => unlessNotThere(abide.imports.get(id)));
  if (found === undefined) return sayNotThere(id, options);
  const ask = createAsk(options, { patience: LONG_PATIENCE, say });
  const interruption = untilInterrupted();
  const now = options.wait === true ? await watch(ask, found, interruption) : found;
  interruption.stop();
  if (now === undefined) return;
  await show(ask, now, options);
  // A script waits by it, and 0 would say that every row was taken.
  if (isGoingOn(now)) process.exitCode = EXIT.waiting;
}

async function list(
  options: ApiOptions & { state?: ImportState; limit: number; json?: true },
): Promise<void> {
  const { state, limit } = options;
  const ask = createAsk(options, { say: (problem) => inWords(problem, '') });
  const found: Import[] = [];
  await ask(async (abide) => {
    const filter = { limit: Math.min(100, limit), ...(state === undefined ? {} : { state }) };
    for await (const one of abide.imports.list(filter)) {
      found.push(one);
      if (found.length === limit) return;
    }
  });
  if (options.json === true) return printJson(found);
  if (found.length === 0) return print('there is no import');
  printTable(
    ['ID', 'STATE', 'CLIENT', 'RECEIVED', 'ROWS', 'RECORDED', 'ALREADY', 'INVALID'],
    found.map((one) => [
      one.id,
      `${one.state}${one.dry_run ? ' (dry run)' : ''}`,
      one.client,
      one.created_at,
      one.rows.done === one.rows.total ? String(one.rows.total) : `${one.rows.done} of ${one.rows.total}`,
      String(one.counts.recorded),
      String(one.counts.already),
      String(one.counts.invalid),
    ]),
  );
}

async function decide(
  id: string,
  options: Looking,
  {
    scope,
    ask,
    done,
  }: { scope: string; ask: (abide: Abide) => Promise<Import>; done: (one: Import) => string },
): Promise<void> {
  let tooLate: string | undefined;
  const decided = await createAsk(options, { say: (problem) => inWords(problem, id, undefined, scope) })(
    (abide) =>
      unlessNotThere(ask(abide)).catch((error: unknown) => {
        if (!(error instanceof AbideProblem && error.code === 'import-not-waiting')) throw error;
        tooLate = error.message;
        return undefined;
      }),
  );
  if (tooLate !== undefined) sayNo(`${id}: ${tooLate}`, options);
  else if (decided === undefined) sayNotThere(id, options);
  else if (options.json === true) printJson(decided);
  else print(done(decided));
}

function sayNotThere(id: string, options: Parameters<typeof sayNo>[1]): void {
  sayNo(`no import ${id}, or it is another client's`, options);
}

/** What a problem means for somebody who has a file. */
function inWords(
  { code, message, errors }: AbideProblem,
  name: string,
  scopes: readonly string[] = [],
  scope = 'imports:write',
): Error | undefined {
  const words: Readonly<Record<string, string>> = {
    'malformed-file': `${name}: ${message}`,
    'invalid-value': `${name} was not taken, and nothing was recorded:${errors.map((fault) => `\n  ${sayFault(fault, scopes)}`).join('')}`,
    'missing-scope': `${message} \`abide keys create --client NAME --scope ${scope}\` makes one that has it: give it by --key or ABIDE_KEY.`,
    'second-key-needed':
      'The key that sent it cannot approve it: have somebody else do so with a key of their own, by --key or ABIDE_KEY.\n' +
      '  `abide keys create --client NAME --scope imports:approve` makes one.',
    'request-timeout': `${name} arrived too slowly, and nothing was recorded: send it again.`,
  };
  const said = words[code];
  return said === undefined ? undefined : new Error(said);
}

function sayFault({ pointer, detail }: Fault, scopes: readonly string[]): string {
  const [, place = '', part] = /^\/([^/]+)(?:\/(.*))?$/.exec(pointer) ?? [];
  if (place === 'columns') {
    if (part === undefined) return `the header ${detail}`;
    if (part === '(not shown)')
      return `a column ${detail}; its name may be an address and is not shown: is there a header?`;
    const hint = part === 'scopes' && scopes.length === 0 ? ': --scopes "email sms" gives them' : '';
    return `the column ${part} ${detail}${hint}`;
  }
  const option = `--${place.replaceAll('_', '-')}`;
  return `${option}: ${part === undefined ? '' : `${scopes[Number(part)] ?? part} `}${detail}`;
}
