import { execFile } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { expect, test } from '@jest/globals';
import { VERSIONS } from '../../api/versions.ts';
import { operationsIn } from '../../api/version.ts';
import { isAbout, verifyReceipt } from '../../receipts/verify.ts';
import { subject } from '../harness/ledger.ts';
import { after, blocksOf, readPage } from './markdown.ts';

/** A program without types. */
const EXAMPLE: string = '../../docs/examples/check-receipt.mjs';
type Example = {
  check: (receipt: string, keys: readonly object[]) => object;
  isAbout: (statement: object, salt: string, kind: string, address: string) => boolean;
};

const page = readPage('docs/receipts.md');
type Vector = { keys: object[]; receipt: string; salt: string; kind: 'email'; address: string };
const vector = JSON.parse(blocksOf(after(page, 'test vector'), 'json')[0]!) as Vector;

test("the page's test vector is valid by our code, and by the example that has none of it", async () => {
  const example = (await import(EXAMPLE)) as Example;
  const { statement } = await verifyReceipt(vector.receipt, { keys: vector.keys });
  expect(isAbout(statement, vector.salt, subject(vector.address))).toBe(true);

  expect(example.check(vector.receipt, vector.keys)).toEqual(statement);
  expect(example.isAbout(statement, vector.salt, vector.kind, vector.address)).toBe(true);
  expect(example.isAbout(statement, vector.salt, vector.kind, 'bob@example.com')).toBe(false);
  const [head, payload, signature] = vector.receipt.split('.');
  const flipped = Buffer.from(signature!, 'base64url');
  flipped[0]! ^= 1;
  expect(() => example.check(`${head}.${payload}.${flipped.toString('base64url')}`, vector.keys)).toThrow(
    'The signature does not fit.',
  );
  // A fourth part is not signed: with it, our own code said no and the example yes.
  for (const receipt of [`${vector.receipt}.`, `${vector.receipt}.e30`, `${head}.${payload}`]) {
    await expect(verifyReceipt(receipt, { keys: vector.keys })).rejects.toMatchObject({
      code: 'RECEIPT_INVALID',
    });
    expect(() => example.check(receipt, vector.keys)).toThrow('This is not a receipt.');
  }
});

// Without the kind it said of her own receipt that it is about somebody else; without a file, Node printed where it threw.
test('the example says in one line how it is used, and which file it cannot read', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'check-receipt-'));
  try {
    const [receipt, keys] = [join(folder, 'receipt.json'), join(folder, 'keys.json')];
    await writeFile(receipt, JSON.stringify({ receipt: vector.receipt, salt: null }));
    await writeFile(keys, JSON.stringify({ keys: vector.keys }));
    const run = promisify(execFile);
    const answerTo = (...args: string[]) =>
      run(process.execPath, ['docs/examples/check-receipt.mjs', ...args]).then(
        () => [0, ''],
        (error: unknown) => {
          const { code, stderr } = error as { code: number; stderr: string };
          return [code, stderr];
        },
      );
    const usage = [
      2,
      expect.stringMatching(/^Usage: node check-receipt\.mjs receipt\.json keys\.json .*\n$/),
    ];
    expect(await answerTo()).toEqual(usage);
    expect(await answerTo(receipt, keys, vector.address)).toEqual(usage);
    expect(await answerTo(receipt, keys, 'mail', vector.address)).toEqual(usage);
    const missing = join(folder, 'missing.json');
    expect(await answerTo(missing, keys)).toEqual([1, `${missing} cannot be read as JSON.\n`]);
    expect(await answerTo(keys, receipt)).toEqual([
      1,
      'Give the file of the receipt, then that of the keys.\n',
    ]);
    const bare = 'Without its salt nobody can tell whom it is about.\n';
    expect(await answerTo(receipt, keys, vector.kind, vector.address)).toEqual([1, bare]);
    expect(await answerTo(receipt, keys)).toEqual([0, '']);
  } finally {
    await rm(folder, { recursive: true });
  }
});

test('the table has every member that is signed, and the API documents this very receipt', async () => {
  const { statement } = await verifyReceipt(vector.receipt, { keys: vector.keys });
  for (const name of [...Object.keys(statement), ...Object.keys(statement.opt_out)].filter(
    (one) => one !== 'opt_out',
  ))
    expect(page).toMatch(new RegExp(`^\\|.*\`(?:opt_out)?\\.?${name}\``, 'm'));
  const { examples } = operationsIn(VERSIONS['v2']!).find(({ id }) => id === 'getReceipt')!;
  expect(examples['receipt']!.answer).toMatchObject({ receipt: vector.receipt, salt: vector.salt });
});
