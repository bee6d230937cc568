import { describePipeline } from './describe-pipeline.ts';
import { startSystem } from './system.ts';

describePipeline('workers that reach nothing but the API', () => startSystem({ workersApart: true }));
