<?php

declare(strict_types=1);

// The only script a web server may run. Everything else lives outside the document root.
require __DIR__ . '/../src/autoload.php';

\OmegaUp\App::main();
