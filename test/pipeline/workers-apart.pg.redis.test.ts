import { expect, test } from '@jest/globals';
import { eventually } from '../harness/eventually.ts';
import { describePipeline } from './describe-pipeline.ts';
import { startSystem } from './system.ts';

describePipeline(
  'workers that reach nothing but the API',
  () => startSystem({ workersApart: true }),
  (system) => {
    test('a dead worker shows as unknown within ten seconds, without traffic; the next one carries on', async () => {
      const { workers, stores, lag, lagOf, optOut } = system();
      await workers.get('crm')!.kill();
      const deadSince = Date.now();
      const { status } = await eventually(async () => {
        const found = await lagOf('crm');
        expect(found.status).toBe('unknown');
        return await lag();
      });
      expect(status).toBe('unknown');
      expect(Date.now() - deadSince).toBeLessThan(20_000);
      expect((await lagOf('mail')).status).toBe('ok');

      // Nobody tells the store meanwhile, and nobody claims so.
      const { id } = await optOut('nobody-carries@example.com', {}, { prefer: 'wait=1' });
      expect(await stores.crm.held('nobody-carries@example.com')).toBeUndefined();
      await workers.get('crm')!.start();
      await eventually(async () => {
        const { text } = await system().ask('GET', `/v1/opt-outs/${id}/propagation`);
        expect(JSON.parse(text)).toMatchObject({ state: 'complete', confirmed: 3 });
      });
      expect(await stores.crm.held('nobody-carries@example.com')).toHaveLength(3);
    });
  },
);
