// What must be there before API and workers start if their parts are run by somebody else (docker-compose.yml): the schema,
// secrets, topics, and a connector whose task runs. Safe to repeat.
import { existsSync, mkdirSync } from 'node:fs';
import { loadConfiguration } from '../../config/configuration.ts';
import type { Log } from '../../connectors/contract/connector.ts';
import { createConnectApi, registerAndWait } from '../../debezium/connect-api.ts';
import { ensureTopics, withAdmin } from '../../debezium/ensure-topics.ts';
import { createKey } from '../../ledger/api-keys.ts';
import { createKafka } from '../../stream/kafka-client.ts';
import { AbideError } from '../../suppression/errors.ts';
import { makeAdministratorKey } from '../administrator-key.ts';
import { adminKeyFile } from '../kept-file.ts';
import { loadConnector } from '../load-connector.ts';
import { openDatabase, urlsOf } from '../open-database.ts';
import { makeWorkerKeys } from './worker-keys.ts';

const READY_MS_MAX = 120_000;

export async function prepareStack({
  configPath,
  dataFolder,
  workerKeys,
  env,
  log,
  print,
}: {
  configPath: string | undefined;
  dataFolder: string;
  /** Where each worker finds its key, and nothing else. */
  workerKeys: string;
  env: Readonly<Record<string, string | undefined>>;
  log: Log;
  print: (line: string) => void;
}): Promise<void> {
  const configuration = await loadConfiguration({
    path: configPath,
    env,
    loadConnector,
    embeddedStoreUrl: () => {
      throw new AbideError('CONFIG_INVALID', 'There is no abide.yaml: set ABIDE_CONFIG.');
    },
  });
  const urls = urlsOf(configuration, log);
  if (urls === undefined || configuration.source !== 'kafka') {
    throw new AbideError('CONFIG_INVALID', 'abide.yaml must have a database, and source: kafka.');
  }
  mkdirSync(dataFolder, { recursive: true });
  // Running this asks for the secrets to be made, wherever the API will listen.
  const { pool } = await openDatabase({
    urls,
    whose: 'elsewhere',
    dataFolder,
    env,
    mayMakeSecrets: true,
    log,
  });
  try {
    if (!existsSync(adminKeyFile(dataFolder)) && !env['ABIDE_ADMIN_KEY']) {
      const token = await makeAdministratorKey(dataFolder, (fields) => createKey(pool, fields));
      print(`administrator's key: ${token}`);
    }
    await makeWorkerKeys(
      pool,
      configuration.stores.map(({ name }) => name),
      workerKeys,
    );
  } finally {
    await pool.end();
  }
  print('abide: schema and keys are ready');
  const kafka = createKafka({ address: configuration.kafka, clientId: 'abide-prepare', log });
  await withAdmin(kafka, (admin) => ensureTopics(admin));
  await registerAndWait(createConnectApi(configuration.kafka.connect), { withinMs: READY_MS_MAX });
  print("abide: topics are ready, the connector's task runs");
}
