import { expect, test } from '@jest/globals';
import { eventually } from '../harness/eventually.ts';
import { describePipeline } from './describe-pipeline.ts';
import { joinStack } from './join-stack.ts';
import { STORES } from './system.ts';

describePipeline('Kafka, from a worker a store', joinStack, (system) => {
  // Without this the whole suite could pass by polling the ledger.
  test('it is by Kafka that they come', async () => {
    await eventually(async () => {
      const { id } = await system().optOut(
        `by-kafka-${process.hrtime.bigint()}@example.com`,
        {},
        { prefer: 'wait=10' },
      );
      const rows = await system().stack.query<{ name: string; carried_by: string }>(
        `select s.name, a.carried_by from acknowledgements a join decisions d using (seq) join stores s on s.id = a.store_id
         where d.opt_out_id = $1 and s.retired_at is null`,
        [id],
      );
      expect(new Map(rows.map(({ name, carried_by }) => [name, carried_by]))).toEqual(
        new Map(STORES.map((name) => [name, 'stream'])),
      );
    });
  });
});
