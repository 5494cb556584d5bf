"""Image data sets: the interface `Data`, CIFAR, digits, folders of images, batched augmentation."""
