// disputes: a client's mistaken mass opt-out. Its addresses are unsealed here and nowhere else: the holder of the key ring has them
// anyway, and no API key ever gets one.
import { Readable } from 'node:stream';
import type { Writable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { InvalidArgumentError } from 'commander';
import type { Command } from 'commander';
import {
  addressOf,
  auditExport,
  disputedPages,
  findDispute,
  listDisputes,
  openDispute,
} from '../ledger/disputes.ts';
import type { KeyRing } from '../ledger/key-ring.ts';
import type { Disputed } from '../ledger/disputes.ts';
import { AbideError } from '../suppression/errors.ts';
import { environmentOf, ofInstallation } from './installation.ts';
import type { Installation } from './installation.ts';
import { onLedger, operator } from './on-ledger.ts';
import { endProgress, print, printJson, printProgress, printTable, sayNo, toJson } from './output.ts';
import { readInstant, readReason } from './read-arguments.ts';
import { writeWhole } from './write-whole.ts';

export function addDisputes(program: Command): void {
  const disputes = program
    .command('disputes')
    .description('Opt-outs that a client made by mistake: mark them, and see whom to ask. Lifts nothing.');
  ofInstallation(disputes.command('open'))
    .description('Mark every opt-out that a key recorded in a period of time. They go on suppressing.')
    .requiredOption('--key-id <id>', 'the 12 characters after abide_live_, or token:NAME of an issuer')
    .option('--client <name>', 'whose tokens, with token:NAME')
    .requiredOption('--from <time>', 'recorded at this time or later', readInstant)
    .requiredOption('--to <time>', 'recorded before this time', readInstant)
    .requiredOption('--reason <text>', 'why, for the audit log; no address', readReason)
    .option('--json', 'print JSON')
    .action(
      async (
        options: Installation & {
          keyId: string;
          client?: string;
          from: string;
          to: string;
          reason: string;
          json?: boolean;
        },
      ) => {
        if (options.from >= options.to) throw new InvalidArgumentError('--from must be before --to');
        await onLedger(options, async (pool) => {
          const dispute = await openDispute(pool, {
            keyId: options.keyId,
            client: options.client,
            since: options.from,
            until: options.to,
            reason: options.reason,
            caller: operator(),
            onMarked: (count) => printProgress(`${count} opt-outs marked`),
          }).catch((error: unknown) => {
            if (error instanceof AbideError && error.code === 'invalid-value')
              throw new InvalidArgumentError(error.message);
            throw error;
          });
          endProgress();
          if (dispute === undefined) sayNo('the key recorded no opt-out within that time', options);
          else if (options.json === true) printJson(toJson(dispute));
          else {
            print(`${dispute.id}: ${dispute.optOuts} opt-outs are marked, and go on suppressing`);
            print(`whom to ask: abide disputes export ${dispute.id} --output FILE`);
          }
        });
      },
    );
  ofInstallation(disputes.command('list'))
    .description('List the disputes, newest first')
    .option('--json', 'print JSON')
    .action(async (options: Installation & { json?: boolean }) => {
      await onLedger(options, async (pool) => {
        const all = await listDisputes(pool);
        if (options.json === true) return printJson(all.map(toJson));
        printTable(
          ['ID', 'KEY', 'CLIENT', 'FROM', 'TO', 'OPT-OUTS', 'REASON'],
          all.map((one) => [
            one.id,
            one.keyId,
            one.client,
            one.since,
            one.until,
            String(one.optOuts),
            one.reason,
          ]),
        );
      });
    });
  ofInstallation(disputes.command('show'))
    .description('How many people a dispute is about, and how many it still suppresses')
    .argument('<id>', 'as `abide disputes list` prints it')
    .option('--json', 'print JSON')
    .action(async (id: string, options: Installation & { json?: boolean }) => {
      await onLedger(options, async (pool) => {
        const dispute = await findDispute(pool, id);
        if (dispute === undefined) return sayNo(noDispute(id), options);
        const counts = { identifiers: 0, erased: 0, still_suppressed: 0 };
        for await (const page of disputedPages(pool, id)) {
          counts.identifiers += page.length;
          counts.erased += page.filter(({ sealed }) => sealed === undefined).length;
          counts.still_suppressed += page.filter((one) => one.stillSuppressed.length > 0).length;
        }
        if (options.json === true) return printJson({ ...toJson(dispute), ...counts });
        print(`key:              ${dispute.keyId} of ${dispute.client}`);
        print(`recorded:         from ${dispute.since} to ${dispute.until}`);
        print(`opened:           ${dispute.openedAt} by ${dispute.openedBy}: ${dispute.reason}`);
        print(`opt-outs:         ${dispute.optOuts}`);
        print(`identifiers:      ${counts.identifiers}, of which ${counts.erased} erased`);
        print(`still suppressed: ${counts.still_suppressed}`);
      });
    });
  ofInstallation(disputes.command('export'))
    .description('Write whom to ask, as CSV with plain addresses: needs the key ring, and is audited')
    .argument('<id>', 'as `abide disputes list` prints it')
    .option('--output <file>', 'a new file that only you can read (0600); without it, standard output')
    .action(async (id: string, options: Installation & { output?: string }) => {
      const { withLedger } = await import('../processes/running-database.ts');
      await withLedger(environmentOf(options), async (pool, ring) => {
        const dispute = await findDispute(pool, id);
        if (dispute === undefined) return sayNo(noDispute(id), { json: true });
        const { output } = options;
        const send = async (to: Writable): Promise<void> => {
          await auditExport(pool, dispute, operator());
          let damaged = 0;
          const lines = Readable.from(linesOf(disputedPages(pool, id), ring, () => (damaged += 1)));
          await pipeline(lines, to, { end: to !== process.stdout });
          if (damaged > 0)
            process.stderr.write(
              `not erased but damaged in the database, and so empty: ${damaged} of the addresses\n`,
            );
        };
        if (output === undefined) return await send(process.stdout);
        await writeWhole(output, send);
        print(`${output} has whom to ask about ${dispute.optOuts} opt-outs`);
      });
    });
}

const noDispute = (id: string): string => `no dispute ${id}`;

/**
 * A spreadsheet runs cells that begin with one of these, also of double width; a client that means harm may have put them there.
 * Where decimals are written with a comma, a spreadsheet takes the semicolon for the end of a cell, quotes or not.
 */
const RUN_BY_SPREADSHEETS = /(?<=^|;)[=+\-@\t\r\n＝＋－＠]/g;
const PHONE = /^\+\d+$/;

function cellOf(text: string): string {
  const plain = PHONE.test(text) ? text : text.replaceAll(RUN_BY_SPREADSHEETS, "'$&");
  return /[",\r\n]/.test(plain) ? `"${plain.replaceAll('"', '""')}"` : plain;
}

async function* linesOf(
  pages: AsyncIterable<readonly Disputed[]>,
  ring: KeyRing,
  onDamaged: () => void,
): AsyncGenerator<string> {
  yield 'opt_out_id,kind,address,scopes,recorded_at,still_suppressed\r\n';
  for await (const page of pages) {
    yield page
      .map((one) => {
        const address = addressOf(ring, one);
        if (address === undefined && one.sealed !== undefined) onDamaged();
        return [
          one.optOutId,
          one.kind,
          address ?? '',
          one.scopes.join(' '),
          one.recordedAt,
          one.stillSuppressed.join(' '),
        ]
          .map(cellOf)
          .join(',');
      })
      .map((line) => `${line}\r\n`)
      .join('');
  }
}
