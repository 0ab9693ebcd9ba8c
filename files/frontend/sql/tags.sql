-- What a problem is about. Safe to apply again.
CREATE TABLE IF NOT EXISTS Tags (
  tag_id INT UNSIGNED NOT NULL AUTO_INCREMENT,
  name VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  PRIMARY KEY (tag_id),
  UNIQUE KEY name (name)
) ENGINE = InnoDB;
