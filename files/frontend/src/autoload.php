<?php

declare(strict_types=1);

// \OmegaUp\DAO\Schools is DAO/Schools.php: PSR-4 without composer, so that there is nothing to build or to download.
spl_autoload_register(static function (string $class): void {
    if (!str_starts_with($class, 'OmegaUp\\')) {
        return;
    }
    $file = __DIR__ . '/' . strtr(substr($class, strlen('OmegaUp\\')), '\\', '/') . '.php';
    if (is_file($file)) {
        require $file;
    }
});
